#!/usr/bin/env bash
# supervision 0.31.2: the COCO file of DetectionDataset.as_coco has smaller masks than the data set.
#
# Guess before looking: as_coco writes what its documentation says, one connected region as a polygon
# and others as run lengths; so pycocotools, COCO's own reader, gets the masks back, at most a corner
# pixel off, each one thing (iscrowd 0).
# Seen: a polygon runs through the centres of the outermost pixels, and pycocotools, for which
# coordinates are those of the pixels' corners, loses a row and a column: of 9 x 7 pixels 8 x 6 are
# left, beside "area": 63. Masks with a hole or of two parts are crowds (iscrowd 1), which COCO's
# evaluation ignores. Masks of one, two and three pixels in a row have no polygon (a warning says so),
# and pycocotools stops with an IndexError there. Reading its own file back, supervision sees none of
# the first two, since it paints the edge of polygons too.
# Fails when that changes.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.2.6 supervision==0.31.2 pycocotools==2.0.11
"$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON'
import contextlib
import importlib.metadata
import io
import sys
from pathlib import Path

import numpy
import supervision
from PIL import Image
from pycocotools.coco import COCO

assert importlib.metadata.version("supervision") == "0.31.2"
FOLDER = Path(sys.argv[1]) / "pictures"
FOLDER.mkdir()


def mask(*boxes, without=()):
    values = numpy.zeros((12, 17), dtype=bool)
    for x0, y0, x1, y1 in boxes:
        values[y0:y1, x0:x1] = True
    for x0, y0, x1, y1 in without:
        values[y0:y1, x0:x1] = False
    return values


MASKS = {
    "block": mask((3, 2, 12, 9)),
    "ring": mask((3, 2, 12, 9), without=[(5, 4, 9, 6)]),
    "two parts": mask((0, 0, 4, 3), (8, 5, 17, 12)),
    "one pixel": mask((5, 3, 6, 4)),
    "three pixels": mask((5, 3, 8, 4)),
}
annotations = {}
for name, values in MASKS.items():
    file = str(FOLDER / f"{name}.png")
    Image.new("RGB", (17, 12)).save(file)
    annotations[file] = supervision.Detections(
        xyxy=supervision.mask_to_xyxy(values[None]).astype(float),
        mask=values[None],
        class_id=numpy.array([0]),
    )
data = supervision.DetectionDataset(["thing"], list(annotations), annotations)
data.as_coco(annotations_path=str(FOLDER / "annotations.json"))

with contextlib.redirect_stdout(io.StringIO()):
    coco = COCO(str(FOLDER / "annotations.json"))
seen = {}
for number, image in coco.imgs.items():
    name = Path(image["file_name"]).stem
    (entry,) = coco.imgToAnns[number]
    try:
        read = int(coco.annToMask(entry).sum())
    except IndexError as error:
        read = type(error).__name__
    seen[name] = (int(MASKS[name].sum()), entry["area"], read, entry["iscrowd"])
    print(f"{name}: pixels, area in the file, pixels read, crowd: {seen[name]}")
assert seen["block"] == (63, 63, 48, 0)
assert seen["ring"] == (55, 55, 55, 1)
assert seen["two parts"] == (75, 75, 75, 1)
assert seen["one pixel"] == (1, 1, "IndexError", 0)
assert seen["three pixels"] == (3, 3, "IndexError", 0)
back = supervision.DetectionDataset.from_coco(
    str(FOLDER), str(FOLDER / "annotations.json"), force_masks=True
)
own = {Path(file).stem: int(found.mask.sum()) for file, _, found in back}
print(f"read by supervision itself: {own}")
assert (own["block"], own["ring"], own["one pixel"]) == (63, 55, 0)
PYTHON
