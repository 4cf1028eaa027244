"""YOLO's instance segmentation: a text file a picture, a line for each mask."""

from collections.abc import Sequence

import numpy as np

from flmm.answers.polygons import Ring, mask_to_rings
from flmm.exports.exporter import Exporter
from flmm.exports.pictures import LabelledPicture

_DIGITS = 7
"""Of a coordinate as a share of the picture's side."""


class YoloExporter(Exporter):
    """``labels/`` and ``data.yaml``."""

    next_step = "put the pictures into images/, beside labels/, under the same names"

    def add(self, picture: LabelledPicture) -> None:
        height, width = picture.size
        lines = []
        for mask in picture.masks:
            ring = join_rings(mask_to_rings(mask.part, *mask.box[:2]))
            shares = np.round(ring / [width, height], _DIGITS).ravel().tolist()
            lines.append(f"{self.label_numbers[mask.label]} {' '.join(map(str, shares))}\n")
        self.new_file(picture, ".txt", "labels").write_text("".join(lines), encoding="ascii")

    def finish(self) -> None:
        import yaml

        content = {
            "path": ".",
            "train": "images",
            "val": "images",
            "names": dict(enumerate(self.labels)),
        }
        (self.folder / "data.yaml").write_text(
            yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8"
        )


def join_rings(rings: Sequence[Ring]) -> Ring:
    """Return one ring for a mask of several parts; lines without width join them."""
    starts = [ring[:1] for ring in rings]
    there = [
        corners for ring, start in zip(rings, starts, strict=True) for corners in (ring, start)
    ]
    return np.concatenate([*there, *starts[-2:0:-1]]) if len(rings) > 1 else rings[0]
