"""PNG files: a folder a picture, a file for each mask."""

import json
from collections.abc import Sequence
from pathlib import Path

from flmm.answers.image_files import write_masks
from flmm.answers.run_lengths import decode_rle
from flmm.exports.exporter import Exporter
from flmm.exports.pictures import LabelledPicture


class MaskFilesExporter(Exporter):
    """8-bit grey PNG files, 255 in the mask, and ``masks.jsonl``, a line for each of them."""

    next_step = "masks.jsonl says of each file which picture, label and phrase it is of"

    def __init__(self, folder: Path, labels: Sequence[str], image_prefix: str = "") -> None:
        super().__init__(folder, labels, image_prefix)
        self._list = (folder / "masks.jsonl").open("w", encoding="ascii")

    def add(self, picture: LabelledPicture) -> None:
        files = write_masks(
            self.folder / picture.file,
            ((mask.label, decode_rle(mask.phrase["mask"], mask.box)) for mask in picture.masks),
        )
        for file, mask in zip(files, picture.masks, strict=True):
            entry = {
                "file": file.relative_to(self.folder).as_posix(),
                "image": picture.image,
                "label": mask.label,
                "text": mask.phrase["text"],
                "score": mask.phrase["score"],
                "box": mask.phrase["box"],
            }
            self._list.write(f"{json.dumps(entry)}\n")

    def finish(self) -> None:
        self._list.close()
