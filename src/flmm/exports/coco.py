"""COCO instances: one file, which pycocotools, FiftyOne, supervision and many others read."""

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from flmm.answers.coco import build_coco_annotation
from flmm.exports.exporter import Exporter
from flmm.exports.pictures import LabelledPicture


class CocoExporter(Exporter):
    """``annotations.json``, with masks as run lengths."""

    next_step = "read annotations.json with pycocotools, or import it as COCO instances"

    def __init__(self, folder: Path, labels: Sequence[str], image_prefix: str = "") -> None:
        super().__init__(folder, labels, image_prefix)
        # Written one by one, since a whole run need not fit into memory.
        self._annotations = (folder / "annotations.json").open("w", encoding="ascii")
        self._annotations.write('{"annotations": [')
        self._images = tempfile.TemporaryFile("w+", encoding="ascii", dir=folder)  # noqa: SIM115
        self._num_annotations = 0

    def add(self, picture: LabelledPicture) -> None:
        height, width = picture.size
        image = {
            "id": picture.number, "width": width, "height": height,
            "file_name": self.image_name(picture),
        }  # fmt: skip
        self._images.write(f"{',' * (picture.number > 1)}\n{json.dumps(image)}")
        for mask in picture.masks:
            self._num_annotations += 1
            category = self.label_numbers[mask.label] + 1
            annotation = build_coco_annotation(
                mask.phrase, self._num_annotations, picture.number, category
            )
            separator = "," * (self._num_annotations > 1)
            self._annotations.write(f"{separator}\n{json.dumps(annotation)}")

    def finish(self) -> None:
        self._annotations.write('],\n"images": [')
        self._images.seek(0)
        shutil.copyfileobj(self._images, self._annotations)
        self._images.close()
        categories = [{"id": number, "name": name} for number, name in enumerate(self.labels, 1)]
        self._annotations.write(f'],\n"categories": {json.dumps(categories)}}}\n')
        self._annotations.close()
