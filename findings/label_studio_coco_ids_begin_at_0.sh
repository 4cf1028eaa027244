#!/usr/bin/env bash
# label-studio-sdk 2.1.2, pycocotools 2.0.11: the first thing of a COCO export is never found.
#
# Guess before looking: Label Studio's COCO exports (of polygons, and of brush masks:
# BRUSH_TO_COCO) are for COCO's own evaluation, so a file evaluated against its own masks has the
# AP 1.
# Seen: both number annotations from 0, and pycocotools writes the number of the annotation found
# beside each detection, 0 for none: what finds annotation 0 is a false alarm, and annotation 0 is
# missed. The AP of one thing is 0 and of two 0.252, not 1. faster-coco-eval 1.8.0, which says
# that it replaces pycocotools, gives the same numbers; hotcoco 1.3.0, which promises
# pycocotools' numbers to the bit, counts annotation 0. Nothing is said by any of them.
# Fails when that changes.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.2.6 label-studio-sdk==2.1.2 pycocotools==2.0.11 \
    faster-coco-eval==1.8.0 hotcoco==1.3.0
"$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON'
import contextlib
import importlib.metadata
import io
import json
import sys
from pathlib import Path

import faster_coco_eval
import hotcoco
import numpy
from label_studio_sdk.converter import Converter, brush
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

PINNED = {
    "label-studio-sdk": "2.1.2", "pycocotools": "2.0.11", "faster-coco-eval": "1.8.0",
    "hotcoco": "1.3.0",
}  # fmt: skip
for package, version in PINNED.items():
    assert importlib.metadata.version(package) == version, package
FOLDER = Path(sys.argv[1])
WIDTH, HEIGHT = 60, 40
CONFIG = """<View><Image name="image" value="$image"/>
<{kind} name="tag" toName="image"><Label value="cat"/></{kind}></View>"""


def brush_value(x0, y0, x1, y1):
    values = numpy.zeros((HEIGHT, WIDTH), dtype=numpy.uint8)
    values[y0:y1, x0:x1] = 255
    return {"format": "rle", "rle": brush.mask2rle(values), "brushlabels": ["cat"]}


def polygon_value(x0, y0, x1, y1):
    points = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    percents = [[x * 100 / WIDTH, y * 100 / HEIGHT] for x, y in points]
    return {"points": percents, "polygonlabels": ["cat"]}


def exported(kind, to_value, file_format, count):
    """The COCO file that Label Studio makes of as many pictures, each with one mask."""
    name = f"{kind}_{count}"
    tasks = [
        {
            "id": number, "data": {"image": f"https://example.org/{number}.png"},
            "annotations": [{
                "id": number, "completed_by": 1,
                "result": [{
                    "id": "a", "type": kind.lower(), "from_name": "tag", "to_name": "image",
                    "original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0,
                    "value": to_value(3, 2, 30, 20),
                }],
            }],
        }
        for number in range(1, count + 1)
    ]  # fmt: skip
    tasks_file = FOLDER / f"{name}.json"
    tasks_file.write_text(json.dumps(tasks))
    config = CONFIG.format(kind=kind)
    converter = Converter(config, str(FOLDER), download_resources=False)
    converter.convert(str(tasks_file), str(FOLDER / name), file_format, is_dir=False)
    (file,) = (FOLDER / name).glob("*.json")
    return file


def precision(file, data_class, evaluation_class):
    """The AP of the masks of that file against themselves."""
    with contextlib.redirect_stdout(io.StringIO()):
        masks = COCO(str(file))
        answers = [
            {
                "image_id": entry["image_id"], "category_id": entry["category_id"], "score": 1.0,
                "segmentation": masks.annToRLE(entry),
            }
            for entry in masks.anns.values()
        ]  # fmt: skip
        for answer in answers:
            answer["segmentation"]["counts"] = answer["segmentation"]["counts"].decode()
        answers_file = file.with_suffix(".answers")
        answers_file.write_text(json.dumps(answers))
        data = data_class(str(file))
        evaluation = evaluation_class(data, data.loadRes(str(answers_file)), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return round(float(evaluation.stats[0]), 3)


EVALUATORS = {
    "pycocotools": (COCO, COCOeval),
    "faster-coco-eval": (faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster),
    "hotcoco": (hotcoco.COCO, hotcoco.COCOeval),
}
EXPECTED = {1: 0.0, 2: 0.252}
EXPORTS = (
    ("BrushLabels", brush_value, "BRUSH_TO_COCO"), ("PolygonLabels", polygon_value, "COCO"),
)  # fmt: skip
for kind, to_value, file_format in EXPORTS:
    for count in (1, 2):
        file = exported(kind, to_value, file_format, count)
        content = json.loads(file.read_text())
        numbers = [entry["id"] for entry in content["annotations"]]
        found = {name: precision(file, *classes) for name, classes in EVALUATORS.items()}
        for entry in content["annotations"]:
            entry["id"] += 1
        from_one = file.with_suffix(".from_one")
        from_one.write_text(json.dumps(content))
        repaired = {name: precision(from_one, *classes) for name, classes in EVALUATORS.items()}
        print(f"{file_format}, annotations {numbers}: AP {found}; numbered from 1: {repaired}")
        assert numbers == list(range(count))
        assert found["pycocotools"] == found["faster-coco-eval"] == EXPECTED[count], found
        assert found["hotcoco"] == 1
        assert set(repaired.values()) == {1}
PYTHON
