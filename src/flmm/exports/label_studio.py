"""Label Studio: tasks with brush masks as predictions, and the labelling interface for them."""

import json
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from flmm.answers.palette import phrase_colour, to_hex
from flmm.exports.exporter import Exporter, replace_characters_not_in_xml
from flmm.exports.pictures import LabelledMask, LabelledPicture
from flmm.exports.row_runs import count_row_runs
from flmm.types import Size

_FROM_NAME, _TO_NAME = "tag", "image"
_LENGTH_BITS = np.array([3, 4, 8, 16])
"""Of a run's length, less 1; which of them, is said by two bits before it."""
_MAX_RUN = 1 << 16
_CHANNELS = 4


class LabelStudioExporter(Exporter):
    """``tasks.json``, and ``config.xml`` for the project's labelling interface."""

    next_step = (
        "make a Label Studio project with config.xml as its labelling interface, then import"
        " tasks.json"
    )

    def __init__(self, folder: Path, labels: Sequence[str], image_prefix: str = "") -> None:
        super().__init__(folder, labels, image_prefix)
        self._file = (folder / "tasks.json").open("w", encoding="ascii")
        self._file.write("[")

    def add(self, picture: LabelledPicture) -> None:
        scores = [mask.phrase["score"] for mask in picture.masks]
        results = [
            _build_result(mask, f"{picture.number}-{number}", picture.size)
            for number, mask in enumerate(picture.masks, 1)
        ]
        prediction = {
            "model_version": picture.model,
            "score": round(sum(scores) / max(len(scores), 1), 4),
            "result": results,
        }
        task = {"data": {"image": self.image_name(picture)}, "predictions": [prediction]}
        self._file.write(f"{',' * (picture.number > 1)}\n{json.dumps(task)}")

    def finish(self) -> None:
        self._file.write("]\n")
        self._file.close()
        labels = "".join(
            f"    <Label value={quoteattr(replace_characters_not_in_xml(label))}"
            f' background="{to_hex(phrase_colour(number))}"/>\n'
            for number, label in enumerate(self.labels)
        )
        (self.folder / "config.xml").write_text(
            f'<View>\n  <Image name="{_TO_NAME}" value="$image" zoom="true"/>\n'
            f'  <BrushLabels name="{_FROM_NAME}" toName="{_TO_NAME}">\n{labels}'
            "  </BrushLabels>\n</View>\n",
            encoding="utf-8",
        )


def _build_result(mask: LabelledMask, identity: str, size: Size) -> dict[str, object]:
    height, width = size
    return {
        "id": identity,
        "type": "brushlabels",
        "from_name": _FROM_NAME,
        "to_name": _TO_NAME,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": mask.phrase["score"],
        "meta": {"text": [mask.phrase["text"]]},
        "value": {
            "format": "rle",
            "rle": encode_brush(mask.part, size, *mask.box[:2]),
            "brushlabels": [replace_characters_not_in_xml(mask.label)],
        },
    }


def encode_brush(part: NDArray[np.bool_], size: Size, left: int = 0, top: int = 0) -> list[int]:
    """Return a mask in Label Studio's own run lengths: the bytes of a packed stream of bits.

    The picture is taken row by row with four equal channels of 0 or 255. The stream has the number
    of values in 32 bits, the bits of a value less 1 in 5, the four ``_LENGTH_BITS`` less 1 in 4
    each; then for each run 1, which of the four in 2, its length less 1, and its value in 8.
    Label Studio took this from the package rle-pack of thi.ng/umbrella.

    Args:
        part: (h, w) bool: the mask inside its box.
        size: (H, W) of the picture.
        left, top: of the box.
    """
    runs = count_row_runs(part, size, left, top) * _CHANNELS
    values = np.arange(len(runs)) % 2 * 255
    pieces = -(-runs // _MAX_RUN)
    lengths = np.full(pieces.sum(), _MAX_RUN)
    ends = np.cumsum(pieces)
    lengths[ends[pieces > 0] - 1] = (runs - (pieces - 1) * _MAX_RUN)[pieces > 0]
    values = np.repeat(values, pieces)
    which = np.searchsorted(1 << _LENGTH_BITS, lengths)
    length_bits = _LENGTH_BITS[which]
    codes = ((4 + which << length_bits) + lengths - 1 << 8) + values
    header = f"{size[0] * size[1] * _CHANNELS:032b}{7:05b}" + "".join(
        f"{bits - 1:04b}" for bits in _LENGTH_BITS
    )
    code_bits = 3 + length_bits + 8
    starts = len(header) + np.cumsum(code_bits) - code_bits
    stream = np.zeros(len(header) + code_bits.sum(), dtype=np.uint8)
    stream[: len(header)] = [int(bit) for bit in header]
    for place in range(code_bits.max(initial=0)):
        has = code_bits > place
        stream[starts[has] + place] = codes[has] >> code_bits[has] - 1 - place & 1
    encoded: list[int] = np.packbits(stream).tolist()
    return encoded
