#!/usr/bin/env bash
# pycocotools 2.0.11: mask.frPyObjects takes no box that is a list, as COCO's JSON has them.
#
# Guess before looking: its documentation says that it converts polygons, boxes and run lengths, and
# it tells lists of four numbers (boxes) from longer ones (polygons), so [[2, 2, 5, 4]] becomes the
# run lengths of that box, and so does [2, 2, 5, 4] alone.
# Seen: only an array of boxes does; both lists are TypeErrors. A "polygon" of two corners first in a
# segmentation is taken for such a box, so decoding a COCO file stops there; after a polygon the same
# two corners are passed over, and the mask is the polygon's.
# Fails when that changes.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 pycocotools==2.0.11
"$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata

import numpy
from pycocotools import mask

assert importlib.metadata.version("pycocotools") == "2.0.11"

BOX = [2.0, 2.0, 5.0, 4.0]
POLYGON = [1.0, 1.0, 8.0, 1.0, 8.0, 8.0, 1.0, 8.0]


def areas(segmentation) -> object:
    """The areas of the run lengths that it becomes, or the error."""
    try:
        encoded = mask.frPyObjects(segmentation, 20, 20)
    except TypeError as error:
        return f"TypeError: {error}"
    return numpy.atleast_1d(mask.area(encoded)).tolist()


seen = {
    "a box": areas(BOX),
    "an array of one box": areas(numpy.array([BOX])),
    "a list of one box": areas([BOX]),
    "two corners after a polygon": areas([POLYGON, BOX]),
    "the polygon alone": areas([POLYGON]),
}
for name, result in seen.items():
    print(f"{name}: {result}")
assert seen["an array of one box"] == [20]
assert str(seen["a box"]).startswith("TypeError")
assert str(seen["a list of one box"]).startswith("TypeError")
assert seen["two corners after a polygon"] == [*seen["the polygon alone"], 0]
PYTHON
