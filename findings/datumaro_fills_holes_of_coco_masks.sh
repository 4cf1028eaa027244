#!/usr/bin/env bash
# datumaro 1.13.12: reading a COCO file of run lengths and writing it again fills holes of masks.
#
# Guess before looking: datumaro keeps a mask as a mask, so COCO in and COCO out leaves the pixels
# and "iscrowd": 0 as they are; and new masks (Mask annotations, as it makes of CVAT's) become run
# lengths, each one thing, which COCO's evaluation counts.
# Seen: the import is exact, but the export makes one polygon of the outline of each part, through
# the centres of the outermost pixels: a ring of 55 pixels comes back as 48, without its hole, a
# block of 63 as 48. Masks of one pixel and of three in a row get an empty segmentation, at which
# pycocotools stops with an IndexError. Nothing is said. New masks keep their pixels and are all
# crowds: the evaluation ignores them, so a perfect answer has the AP -1. With
# segmentation_mode="mask" the masks of the COCO file are exact and crowds as well: no mode writes
# run lengths with "iscrowd": 0.
# Fails when that changes.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.2.6 datumaro==1.13.12 pycocotools==2.0.11
"$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON'
import contextlib
import importlib.metadata
import io
import json
import sys
from pathlib import Path

import datumaro
import numpy
from datumaro.components.media import Image
from PIL import Image as PillowImage
from pycocotools import mask as run_lengths
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

assert importlib.metadata.version("datumaro") == "1.13.12"
FOLDER = Path(sys.argv[1])


def mask(*boxes, without=()):
    values = numpy.zeros((12, 17), dtype=numpy.uint8)
    for x0, y0, x1, y1 in boxes:
        values[y0:y1, x0:x1] = 1
    for x0, y0, x1, y1 in without:
        values[y0:y1, x0:x1] = 0
    return numpy.asfortranarray(values)


MASKS = {
    "block": mask((3, 2, 12, 9)),
    "ring": mask((3, 2, 12, 9), without=[(5, 4, 9, 6)]),
    "two parts": mask((0, 0, 4, 3), (8, 5, 17, 12)),
    "one pixel": mask((5, 3, 6, 4)),
    "three pixels": mask((5, 3, 8, 4)),
}


def encoded(values):
    lengths = run_lengths.encode(values)
    return {"size": lengths["size"], "counts": lengths["counts"].decode()}


def read(folder):
    """The COCO file that datumaro wrote there, as pycocotools has it."""
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(folder / "annotations" / "instances_val.json"))


def seen(coco):
    """Pixels and iscrowd of each mask, or the error."""
    found = {}
    for number, image in coco.imgs.items():
        (entry,) = coco.imgToAnns[number]
        try:
            pixels = int(coco.annToMask(entry).sum())
        except IndexError as error:
            pixels = type(error).__name__
        found[Path(image["file_name"]).stem] = (pixels, entry["iscrowd"])
    return found


source = FOLDER / "source"
(source / "images" / "val").mkdir(parents=True)
(source / "annotations").mkdir()
for name in MASKS:
    PillowImage.new("RGB", (17, 12)).save(source / "images" / "val" / f"{name}.png")
content = {
    "images": [
        {"id": number, "file_name": f"{name}.png", "width": 17, "height": 12}
        for number, name in enumerate(MASKS, 1)
    ],
    "annotations": [
        {
            "id": number, "image_id": number, "category_id": 1, "iscrowd": 0,
            "segmentation": encoded(values), "area": int(values.sum()),
            "bbox": run_lengths.toBbox(encoded(values)).tolist(),
        }
        for number, values in enumerate(MASKS.values(), 1)
    ],
    "categories": [{"id": 1, "name": "thing"}],
}  # fmt: skip
(source / "annotations" / "instances_val.json").write_text(json.dumps(content))

data = datumaro.Dataset.import_from(str(source), "coco_instances")
for item in data:
    (kept,) = [part for part in item.annotations if part.type == datumaro.AnnotationType.mask]
    assert numpy.array_equal(kept.image, MASKS[item.id]), item.id
data.export(str(FOLDER / "again"), "coco_instances")
data.export(str(FOLDER / "as_masks"), "coco_instances", segmentation_mode="mask")
new = datumaro.Dataset.from_iterable(
    [
        datumaro.DatasetItem(
            name,
            subset="val",
            media=Image.from_numpy(numpy.zeros((12, 17, 3), dtype=numpy.uint8)),
            annotations=[datumaro.Mask(values, label=0)],
        )
        for name, values in MASKS.items()
    ],
    categories=["thing"],
)
new.export(str(FOLDER / "new"), "coco_instances")

exact = {name: int(values.sum()) for name, values in MASKS.items()}
again, as_masks, new = (read(FOLDER / name) for name in ("again", "as_masks", "new"))
print(f"pixels: {exact}")
print(f"COCO to COCO (pixels, crowd): {seen(again)}")
print(f"COCO to COCO with segmentation_mode='mask': {seen(as_masks)}")
print(f"new masks: {seen(new)}")
assert exact["block"] == 63 and exact["ring"] == 55
assert seen(again) == {
    "block": (48, 0), "ring": (48, 0), "two parts": (54, 0),
    "one pixel": ("IndexError", 0), "three pixels": ("IndexError", 0),
}  # fmt: skip
crowds = {name: (pixels, 1) for name, pixels in exact.items()}
assert seen(as_masks) == crowds and seen(new) == crowds

perfect = [
    {
        "image_id": entry["image_id"], "category_id": 1, "score": 1.0,
        "segmentation": encoded(MASKS[Path(new.imgs[entry["image_id"]]["file_name"]).stem]),
    }
    for entry in new.anns.values()
]  # fmt: skip
with contextlib.redirect_stdout(io.StringIO()):
    evaluation = COCOeval(new, new.loadRes(perfect), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
print(f"AP of the new masks themselves: {evaluation.stats[0]}")
assert evaluation.stats[0] == -1
PYTHON
