"""What a training run is told: a YAML file, and flags that override it."""

from collections.abc import Mapping
from enum import StrEnum
from os.path import isdir
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from flmm.data.exchanges import ReferringProtocol
from flmm.data.readers.files import describe_first_error
from flmm.data.sources import DataSource
from flmm.errors import InputError
from flmm.train.compression import CachePrecision

PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class MixedPrecision(StrEnum):
    """The numbers that the head computes with; its weights stay float32."""

    NONE = "no"
    BFLOAT16 = "bf16"


class Tracker(StrEnum):
    """Where figures go beside ``log.jsonl``."""

    TENSORBOARD = "tensorboard"
    WANDB = "wandb"
    TRACKIO = "trackio"


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HeadSettings(_Settings):
    """The head that is trained, and the switches of the paper's ablations."""

    base_channels: Annotated[int, Field(ge=1, le=1024)] = 64
    stages: Annotated[int, Field(ge=1, le=8)] = 4
    upsample_input: Annotated[int, Field(ge=1, le=1024)] = 64
    merge: Literal["mean", "max"] = "mean"
    normalise: bool = True
    refine: bool = True
    use_mask: bool = True
    use_box: bool = True
    use_text: bool = True
    selector: bool = True
    selector_width: Annotated[int, Field(ge=1, le=65536)] = 256
    segment_prompt: str = ""
    caption_prompt: str = ""
    layers: tuple[int, ...] | None = None
    """Only these layers' maps, counted from 0."""
    heads: PositiveInt | None = None
    """Only so many maps: the most useful ones, chosen on some of the training pictures."""

    @model_validator(mode="after")
    def _check_map_choice(self) -> Self:
        if self.layers is not None and self.heads is not None:
            raise ValueError("both layers and heads choose maps; leave one out")
        return self


class TrainingSettings(_Settings):
    """Everything about one run."""

    lmm: str
    """Folder or hub id of the LMM."""
    lmm_revision: str | None = None
    sam: str = "facebook/sam-vit-large"
    out: Path
    """The run's folder."""
    train: Annotated[tuple[DataSource, ...], Field(min_length=1)]
    validation: tuple[DataSource, ...] = ()
    head: HeadSettings = HeadSettings()
    protocol: ReferringProtocol = ReferringProtocol.TOGETHER
    epochs: PositiveInt = 8
    batch_size: PositiveInt = 8
    """Pictures a step, of all processes together."""
    micro_batch_size: PositiveInt = 4
    """Pictures that a process holds at a time; gradients add up over them."""
    learning_rate: PositiveFloat = 1e-4
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01
    clip: PositiveFloat = 1.0
    warm_up: Fraction = 0.03
    """Share of all steps."""
    average: Fraction | None = None
    """Decay of an exponential average of the weights, which is what is kept; None for none."""
    mixed_precision: MixedPrecision = MixedPrecision.NONE
    cache: Path | None = None
    cache_precision: CachePrecision = CachePrecision.FLOAT16
    calibration_pictures: PositiveInt = 32
    """On which ``head.heads`` chooses."""
    checkpoint_every: PositiveInt = 200
    """Steps; also at each epoch's end."""
    log_every: PositiveInt = 10
    """Steps."""
    tracker: Tracker | None = None
    seed: Seed = 0
    device: str | None = None
    dtype: str | None = None

    @field_validator("mixed_precision", mode="before")
    @classmethod
    def _parse_bare_no(cls, value: object) -> object:
        # YAML reads "no" without quotes as false.
        return MixedPrecision.NONE if value is False else value

    @field_validator("out", "cache")
    @classmethod
    def _check_path(cls, place: Path | None) -> Path | None:
        if place is not None and "\0" in str(place):
            raise ValueError("no folder has a NUL character in its name")
        return place

    @model_validator(mode="after")
    def _check_unique_names(self) -> Self:
        for part in ("train", "validation"):
            names = [source.name for source in getattr(self, part)]
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(
                        f"two {part} entries have the name {name!r}; give each its own"
                    )
        return self


_SETTINGS = TypeAdapter(TrainingSettings)


def read_settings(file: Path, overrides: Mapping[str, object]) -> TrainingSettings:
    """The settings in a YAML file; ``flags`` stand above it ("head.heads" for one of the head's).

    Relative paths in the file are counted from its folder, those of flags from where the command
    runs.

    Raises:
        InputError: the file is missing, no YAML, or has an unknown or unfit entry.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"settings {str(file)!r} cannot be read ({error})") from error
    # YAML's reader lets through what Python says of a date in month 13, or of 5,000 brackets.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(
            f"settings {str(file)!r} are not YAML ({' '.join(str(error).split())})"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"settings {str(file)!r} hold no entries; see docs/training.md")
    for name in ("out", "cache", "lmm", "sam"):
        if isinstance(value := content.get(name), str):
            here = str(file.parent / value)
            # A model's name may be a hub id, which looks like a relative path.
            content[name] = here if name in ("out", "cache") or isdir(here) else value
    for name, value in overrides.items():
        place = content
        *folders, last = name.split(".")
        for folder in folders:
            place = place.setdefault(folder, {})
            if not isinstance(place, dict):
                raise InputError(f"settings {str(file)!r}: {folder} is {place!r}; give entries")
        place[last] = value
    try:
        return _SETTINGS.validate_python(content)
    except ValidationError as error:
        raise InputError(f"settings {str(file)!r}: {describe_first_error(error)}") from error
