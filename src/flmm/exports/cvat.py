"""CVAT: an XML file of the format "CVAT for images 1.1"."""

import json
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import quoteattr

from flmm.exports.exporter import Exporter, replace_characters_not_in_xml
from flmm.exports.pictures import LabelledMask, LabelledPicture
from flmm.exports.row_runs import count_row_runs


class CvatExporter(Exporter):
    """``annotations.xml``, and ``labels.json`` for the task's labels."""

    next_step = (
        "make a CVAT task with the labels of labels.json, then upload annotations.xml as 'CVAT 1.1'"
    )

    def __init__(self, folder: Path, labels: Sequence[str], image_prefix: str = "") -> None:
        super().__init__(folder, labels, image_prefix)
        self._file = (folder / "annotations.xml").open("w", encoding="utf-8")
        self._file.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n')
        self._file.write("<version>1.1</version>\n")

    def add(self, picture: LabelledPicture) -> None:
        height, width = picture.size
        self._file.write(
            f'<image id="{picture.number - 1}" name={_quote(self.image_name(picture))}'
            f' width="{width}" height="{height}">\n'
        )
        for mask in picture.masks:
            *runs, left, top, right, bottom = build_cvat_points(mask)
            self._file.write(
                f'<mask label={_quote(mask.label)} source="auto" occluded="0" z_order="0"'
                f' left="{left}" top="{top}" width="{right - left + 1}"'
                f' height="{bottom - top + 1}" rle="{", ".join(map(str, runs))}"></mask>\n'
            )
        self._file.write("</image>\n")

    def finish(self) -> None:
        self._file.write("</annotations>\n")
        self._file.close()
        labels = [
            {"name": replace_characters_not_in_xml(label), "type": "mask", "attributes": []}
            for label in self.labels
        ]
        (self.folder / "labels.json").write_text(json.dumps(labels, indent=1), encoding="ascii")


def build_cvat_points(mask: LabelledMask) -> list[int]:
    """Return a mask's ``points`` in CVAT's API.

    The lengths of the runs along the rows of its box, background first; then the box's left, top,
    right and bottom, the last two inclusive.
    """
    x0, y0, x1, y1 = mask.box
    part = mask.part
    runs: list[int] = count_row_runs(part, (y1 - y0, x1 - x0)).tolist()
    return [*runs, x0, y0, x1 - 1, y1 - 1]


def _quote(text: str) -> str:
    return quoteattr(replace_characters_not_in_xml(text))
