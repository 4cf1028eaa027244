"""The settings of a training run: a YAML file, and overrides from the command line."""

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
from flmm.data.sources import DataSource
from flmm.errors import InputError, describe_first_error

PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class MixedPrecision(StrEnum):
    """The number type of the head's computation; its weights stay float32."""

    NONE = "no"
    BFLOAT16 = "bf16"


class CachePrecision(StrEnum):
    """The number type of stored attention maps, each scaled to a maximum of 1."""

    FLOAT16 = "float16"
    UINT8 = "uint8"


class Tracker(StrEnum):
    """The experiment tracker that gets the log's values, beside ``log.jsonl``."""

    TENSORBOARD = "tensorboard"
    WANDB = "wandb"
    TRACKIO = "trackio"


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HeadSettings(_Settings):
    """Settings of the trained head, with the switches of the paper's ablations."""

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
    """Number of maps to keep: the best ones on ``calibration_pictures`` of the training data."""

    @model_validator(mode="after")
    def _check_map_choice(self) -> Self:
        if self.layers is not None and self.heads is not None:
            raise ValueError("both layers and heads choose maps; leave one out")
        return self


class TrainingSettings(_Settings):
    """All settings of one run."""

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
    """Pictures a step, over all processes."""
    micro_batch_size: PositiveInt = 4
    """Pictures that a process computes at a time; gradients are accumulated over them."""
    learning_rate: PositiveFloat = 1e-4
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01
    clip: PositiveFloat = 1.0
    warm_up: Fraction = 0.03
    """Share of all steps."""
    average: Fraction | None = None
    """Decay of a moving average of the weights, which is what is saved; None for no average."""
    mixed_precision: MixedPrecision = MixedPrecision.NONE
    cache: Path | None = None
    cache_precision: CachePrecision = CachePrecision.FLOAT16
    calibration_pictures: PositiveInt = 32
    """Number of pictures on which the ``head.heads`` best maps are found."""
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
    def _check_path(cls, path: Path | None) -> Path | None:
        if path is not None and "\0" in str(path):
            raise ValueError("no folder has a NUL character in its name")
        return path

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
    """Read settings from a YAML file; ``overrides`` replace its entries ("head.heads": 8).

    Relative paths in the file start at its folder, those of overrides at the working directory.

    Raises:
        InputError: the file is missing, is not YAML, or has an unknown or invalid entry.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"settings {str(file)!r} cannot be read ({error})") from error
    # PyYAML does not catch Python's errors for a date in month 13, or for 5,000 brackets.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(
            f"settings {str(file)!r} are not YAML ({' '.join(str(error).split())})"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"settings {str(file)!r} hold no entries; see docs/training.md")
    for name in ("out", "cache", "lmm", "sam"):
        if isinstance(value := content.get(name), str):
            path = str(file.parent / value)
            # A model may be given by a hub id, which looks like a relative path.
            content[name] = path if name in ("out", "cache") or isdir(path) else value
    for name, value in overrides.items():
        section = content
        *parents, last = name.split(".")
        for parent in parents:
            section = section.setdefault(parent, {})
            if not isinstance(section, dict):
                raise InputError(f"settings {str(file)!r}: {parent} is {section!r}; give entries")
        section[last] = value
    try:
        return _SETTINGS.validate_python(content)
    except ValidationError as error:
        raise InputError(f"settings {str(file)!r}: {describe_first_error(error)}") from error
