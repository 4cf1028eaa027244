"""labelme: a JSON file a picture, with masks as PNG files inside."""

import base64
import json

from flmm.answers.image_files import encode_mask_png
from flmm.exports.exporter import Exporter
from flmm.exports.pictures import LabelledMask, LabelledPicture

_VERSION = "5.5.0"
"""Of labelme, whose files these are like."""


class LabelmeExporter(Exporter):
    """A JSON file for each picture, under its name."""

    next_step = "put each JSON file beside its picture, then open the folder in labelme"

    def add(self, picture: LabelledPicture) -> None:
        height, width = picture.size
        content: dict[str, object] = {
            "version": _VERSION,
            "flags": {},
            "shapes": [_build_shape(mask) for mask in picture.masks],
            "imagePath": picture.file.name,
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        self.new_file(picture, ".json").write_text(json.dumps(content), encoding="ascii")

    def finish(self) -> None:
        """Do nothing: labelme has no file for all pictures."""


def _build_shape(mask: LabelledMask) -> dict[str, object]:
    x0, y0, x1, y1 = mask.box
    return {
        "label": mask.label,
        "description": mask.phrase["text"],
        "points": [[x0, y0], [x1 - 1, y1 - 1]],
        "group_id": None,
        "shape_type": "mask",
        "flags": {},
        "mask": base64.b64encode(encode_mask_png(mask.part)).decode("ascii"),
    }
