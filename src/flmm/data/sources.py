"""Data sources: the entries of a config, one a data set.

Their paths are relative to the config's folder, which ``read`` is given.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict, TypeAdapter, ValidationError

from flmm.data.readers.coco import read_coco
from flmm.data.readers.grounded_conversation import read_grounded_conversations
from flmm.data.readers.panoptic_narrative import read_panoptic_narratives
from flmm.data.readers.plain import read_plain
from flmm.data.readers.reason_seg import read_reason_seg
from flmm.data.readers.refcoco import SplitBy, read_refcoco
from flmm.data.readers.sticker_scenes import read_sticker_scenes
from flmm.data.readers.viscot import read_viscot
from flmm.data.sample import Sample
from flmm.errors import InputError, describe_first_error

# Configs have strings for paths, which strict models would refuse.
DataPath = Annotated[Path, Strict(False)]
"""A file or a folder."""


class BaseDataSource(BaseModel, ABC):
    """The fields of all sources."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    name: Annotated[str, Field(min_length=1)]
    """Its name in tables; each source of a run has its own."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Only the first ``limit`` pictures."""

    def read(self, base_folder: Path) -> list[Sample]:
        """Return its samples.

        Args:
            base_folder: the folder of relative paths.

        Raises:
            InputError: raised by its reader.
        """
        return self._read_samples(base_folder)[: self.limit]

    @abstractmethod
    def _read_samples(self, base_folder: Path) -> list[Sample]: ...


class RefCocoSource(BaseDataSource):
    """RefCOCO, RefCOCO+ or RefCOCOg."""

    kind: Literal["refcoco"] = "refcoco"
    folder: DataPath
    pictures: DataPath
    part: str
    split_by: SplitBy

    def _read_samples(self, base_folder: Path) -> list[Sample]:
        return read_refcoco(
            base_folder / self.folder, base_folder / self.pictures, self.part, self.split_by
        )


class PanopticNarrativesSource(BaseDataSource):
    """Panoptic narrative grounding."""

    kind: Literal["panoptic_narratives"] = "panoptic_narratives"
    folder: DataPath
    pictures: DataPath
    part: Literal["train", "val"]

    def _read_samples(self, base_folder: Path) -> list[Sample]:
        return read_panoptic_narratives(
            base_folder / self.folder, base_folder / self.pictures, self.part
        )


class GroundedConversationsSource(BaseDataSource):
    """GranD-f, one JSON."""

    kind: Literal["grounded_conversation"] = "grounded_conversation"
    file: DataPath
    pictures: DataPath

    def _read_samples(self, base_folder: Path) -> list[Sample]:
        return read_grounded_conversations(base_folder / self.file, base_folder / self.pictures)


class ReasonSegSource(BaseDataSource):
    """ReasonSeg, one part's folder."""

    kind: Literal["reason_seg"] = "reason_seg"
    folder: DataPath

    def _read_samples(self, base_folder: Path) -> list[Sample]:
        return read_reason_seg(base_folder / self.folder)


class VisCotSource(BaseDataSource):
    """One JSON of Visual CoT's benchmark."""

    kind: Literal["viscot"] = "viscot"
    file: DataPath
    pictures: DataPath

    def _read_samples(self, base_folder: Path) -> list[Sample]:
        return read_viscot(base_folder / self.file, base_folder / self.pictures)


class CocoSource(BaseDataSource):
    """An instances JSON of COCO's format."""

    kind: Literal["coco"] = "coco"
    file: DataPath
    pictures: DataPath

    def _read_samples(self, base_folder: Path) -> list[Sample]:
        return read_coco(base_folder / self.file, base_folder / self.pictures)


class PlainSource(BaseDataSource):
    """A JSONL file of flmm's own format."""

    kind: Literal["plain"] = "plain"
    file: DataPath

    def _read_samples(self, base_folder: Path) -> list[Sample]:
        return read_plain(base_folder / self.file)


class StickersSource(BaseDataSource):
    """Sticker scenes."""

    kind: Literal["stickers"] = "stickers"
    folder: DataPath
    scenes: Annotated[int, Field(ge=1)]
    first_scene: Annotated[int, Field(ge=0)]

    def _read_samples(self, base_folder: Path) -> list[Sample]:
        scenes = min(self.scenes, self.limit or self.scenes)
        return read_sticker_scenes(base_folder / self.folder, scenes, self.first_scene)


DataSource = Annotated[
    RefCocoSource
    | PanopticNarrativesSource
    | GroundedConversationsSource
    | ReasonSegSource
    | VisCotSource
    | CocoSource
    | PlainSource
    | StickersSource,
    Field(discriminator="kind"),
]
"""One entry of a config; its ``kind`` says which."""

_SOURCES = TypeAdapter(Annotated[list[DataSource], Field(min_length=1)])


def check_sources(content: object) -> list[DataSource]:
    """Check the entries of a config and return them.

    Raises:
        InputError: there is none, one is wrong (says where), or two have the same name.
    """
    try:
        sources = _SOURCES.validate_python(content)
    except ValidationError as error:
        raise InputError(
            f"data: {describe_first_error(error)}; docs/data.md shows an entry of each kind"
        ) from error
    names = [source.name for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"data: two entries have the name {name!r}; give each its own")
    return sources


def read_sources(sources: Sequence[DataSource], base_folder: Path) -> dict[str, list[Sample]]:
    """Return the samples of each source by its name.

    Raises:
        InputError: a source cannot be read; says which.
    """
    samples = {}
    for source in sources:
        try:
            samples[source.name] = source.read(base_folder)
        except InputError as error:
            raise InputError(f"data {source.name!r}: {error}") from error
    return samples
