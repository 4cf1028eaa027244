"""ReasonSeg: pictures, each with a JSON of instructions and the polygons that they mean."""

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
    """The pixels that keep one label when all polygons are painted, the largest first."""

    polygons: tuple[tuple[str, tuple[float, ...]], ...]
    """(label, x0, y0, x1, y1, …)."""
    label: _Label

    def mask(self, size: Size) -> Mask:
        drawn = [(CocoRegion([ring]).mask(size), label) for label, ring in self.polygons]
        drawn.sort(key=lambda one: -int(one[0].sum()))
        whole: Mask = np.zeros(size, dtype=np.bool_)
        for mask, label in drawn:
            whole[mask] = label == self.label
        return whole


def read_reason_seg(folder: Path) -> list[Sample]:
    """Every picture of a part's folder with its instructions; what "ignore" marks is not measured.

    A sentence is a question to the LMM; a few words are an expression.

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
        for number, said in enumerate(content["text"]):
            phrase = GroundedPhrase(0, len(said), (target,), (ignored,))
            kind: Literal["instruction", "expression"] = (
                "instruction" if content["is_sentence"] else "expression"
            )
            texts.append(GroundedText(f"{file.stem}-{number}", kind, said, (phrase,)))
        samples.append(Sample(file.with_suffix(".jpg"), tuple(texts)))
    return samples
