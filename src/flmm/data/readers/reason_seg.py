"""ReasonSeg: pictures, each with a JSON of instructions and the polygons of their target."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import TypeAdapter
from typing_extensions import TypedDict

from flmm.data.readers.files import read_json
from flmm.data.sample import CocoRegion, GroundedPhrase, GroundedText, Mask, Sample
from flmm.errors import InputError
from flmm.types import Size

_Label = Literal["target", "ignore"]


class _Shape(TypedDict):
    label: str
    points: list[tuple[float, float]]


class _Instructions(TypedDict):
    text: list[str]
    is_sentence: bool
    shapes: list[_Shape]


_INSTRUCTIONS = TypeAdapter(_Instructions)


@dataclass(frozen=True)
class PaintedRegion:
    """The pixels of one label after all polygons are painted, the largest first."""

    polygons: tuple[tuple[str, tuple[float, ...]], ...]
    """(label, x0, y0, x1, y1, …)."""
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

    A sentence is an instruction, a question to the LMM; a few words are an expression.

    Raises:
        InputError: there is no JSON in the folder, or one is damaged or of another form.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        raise InputError(f"there is no .json in {str(folder)!r}; give the folder of one part")
    samples = []
    for file in files:
        content = read_json(file, _INSTRUCTIONS, encodings=("utf-8", "cp1252"))
        polygons = tuple(
            (shape["label"], tuple(number for point in shape["points"] for number in point))
            for shape in content["shapes"]
            if shape["label"] in ("target", "ignore")
        )
        target, ignored = (PaintedRegion(polygons, label) for label in ("target", "ignore"))
        texts = []
        for number, text in enumerate(content["text"]):
            phrase = GroundedPhrase(0, len(text), (target,), (ignored,))
            kind: Literal["instruction", "expression"] = (
                "instruction" if content["is_sentence"] else "expression"
            )
            texts.append(GroundedText(f"{file.stem}-{number}", kind, text, (phrase,)))
        samples.append(Sample(file.with_suffix(".jpg"), tuple(texts)))
    return samples
