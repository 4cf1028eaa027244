#!/usr/bin/env bash
# label-studio-sdk 2.1.2: brush.decode_from_annotation finds no mask in results as Label Studio has them.
#
# Guess before looking: its docstring says "from LS annotation to {tag_name + label_name: image}", so
# given the "result" list of an annotation or a prediction, as the server stores, exports and imports
# it, it returns one image for each brush mask, or raises.
# Seen: it returns {} and says nothing, since it looks for "rle" and "brushlabels" beside "type" and not
# inside "value", where Label Studio has them. Results whose "value" was merged into them are decoded.
# Fails when that changes.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.2.6 label-studio-sdk==2.1.2
"$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata

import numpy
from label_studio_sdk.converter import brush

assert importlib.metadata.version("label-studio-sdk") == "2.1.2"
mask = numpy.zeros((12, 17), dtype=numpy.uint8)
mask[3:5, 5:9] = 255
stored = {
    "id": "a", "type": "brushlabels", "from_name": "tag", "to_name": "image",
    "original_width": 17, "original_height": 12, "image_rotation": 0,
    "value": {"format": "rle", "rle": brush.mask2rle(mask), "brushlabels": ["cat"]},
}
found = brush.decode_from_annotation("tag", [stored])
merged = brush.decode_from_annotation("tag", [{**stored, **stored["value"]}])
print(f"as stored: {list(found)}; with the value merged in: {list(merged)}")
assert found == {}
assert list(merged) == ["tag-cat-0"] and numpy.array_equal(merged["tag-cat-0"], mask)
PYTHON
