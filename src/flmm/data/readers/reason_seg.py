"""ReasonSeg: pictures, each with a JSON of instructions and the polygons of their target."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NotRequired

import numpy as np
from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from flmm.data.readers.files import find_picture, read_json
from flmm.data.sample import (
    CocoRegion,
    GroundedPhrase,
    GroundedText,
    Mask,
    Sample,
    TextKind,
    invalid_text,
)
from flmm.errors import InputError
from flmm.types import Size

_Label = Literal["target", "ignore"]


class _Shape(TypedDict):
    label: str
    points: NotRequired[Annotated[list[list[float]] | object, Field(union_mode="left_to_right")]]


class _Instructions(TypedDict):
    text: list[str]
    is_sentence: bool
    shapes: list[_Shape]


_INSTRUCTIONS = TypeAdapter(_Instructions)


@dataclass(frozen=True)
class PaintedRegion:
    """The pixels of one label after all polygons are painted, the largest first."""

    polygons: tuple[tuple[str, object], ...]
    """Each label with (x0, y0, x1, y1, …)."""
    label: _Label

    def mask(self, size: Size) -> Mask:
        painted = [(CocoRegion([ring]).mask(size), label) for label, ring in self.polygons]
        painted.sort(key=lambda mask_and_label: -int(mask_and_label[0].sum()))
        region: Mask = np.zeros(size, dtype=np.bool_)
        for mask, label in painted:
            region[mask] = label == self.label
        return region


def read_reason_seg(folder: Path) -> list[Sample]:
    """Return every picture of a part's folder with its instructions; "ignore" marks ignored pixels.

    A sentence is an instruction, a question to the LMM; a few words are an expression. Labels are
    read as by LISA: "flag" means nothing, those with "ignore" in them ignored pixels, all others
    the target.

    Raises:
        InputError: there is no JSON in the folder, or one is damaged or of another form.
    """
    # Archives made on macOS have a "._1.json" beside each "1.json".
    files = sorted(file for file in folder.glob("*.json") if not file.name.startswith("."))
    if not files:
        raise InputError(f"there is no .json in {str(folder)!r}; give the folder of one part")
    samples = []
    for file in files:
        content = read_json(file, _INSTRUCTIONS, encodings=("utf-8", "cp1252"))
        polygons = tuple(
            (label, _flatten(shape.get("points")))
            for shape in content["shapes"]
            if (label := _read_label(shape["label"])) is not None
        )
        kind: TextKind = "instruction" if content["is_sentence"] else "expression"
        texts = (
            _text(f"{file.stem}-{number}", kind, text, polygons)
            for number, text in enumerate(content["text"])
        )
        samples.append(Sample(find_picture(file.with_suffix("")), tuple(texts)))
    return samples


def _text(
    identity: str, kind: TextKind, text: str, polygons: tuple[tuple[str, object], ...]
) -> GroundedText:
    if not text.strip():
        return invalid_text(identity, kind, "it has no words")
    target, ignored = (PaintedRegion(polygons, label) for label in ("target", "ignore"))
    phrase = GroundedPhrase(0, len(text), (target,), (ignored,))
    return GroundedText(identity, kind, text, (phrase,))


def _read_label(label: str) -> _Label | None:
    lower_case = label.lower()
    if lower_case == "flag":
        return None
    return "ignore" if "ignore" in lower_case else "target"


def _flatten(points: object) -> object:
    """Return (x0, y0, x1, y1, …) of a list of corners; anything else as it is, to be refused."""
    if isinstance(points, list) and all(
        isinstance(point, list) and len(point) == 2 for point in points
    ):
        return tuple(number for point in points for number in point)
    return points
