#!/usr/bin/env bash
# transformers 5.24.0: return_coco_annotation=True gives runs that are not COCO's, and one too many.
#
# Guess before looking: its documentation says "segmentation maps are returned in COCO run-length
# encoding (RLE) format", so the lists of Mask2Former and MaskFormer are counts, column by column,
# that pycocotools decodes to the masks, one for each entry of segments_info.
# Seen: they are a start (from 1) and a length of each run, row by row. In the place where a COCO
# annotation has its mask, pycocotools takes such a list for a polygon (here of no pixel) without a
# word, and right masks get an AP of 0. Where a pixel is background the first list is the background,
# so that each mask stands beside another segment's label. return_binary_maps=True has the right masks.
# Fails when that changes.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet transformers==5.24.0 scipy==1.16.3 pycocotools==2.0.11 pillow
"$folder/venv/bin/python" -W ignore - 2> "$folder/log" <<'PYTHON' || { cat "$folder/log"; exit 1; }
import contextlib
import io

import numpy
import torch
import transformers
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from transformers.models.mask2former.image_processing_pil_mask2former import (
    Mask2FormerImageProcessorPil,
)
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerForUniversalSegmentationOutput,
)
from transformers.models.maskformer.image_processing_pil_maskformer import (
    MaskFormerImageProcessorPil,
)
from transformers.models.maskformer.modeling_maskformer import (
    MaskFormerForInstanceSegmentationOutput,
)

assert transformers.__version__ == "5.24.0", transformers.__version__
HEIGHT, WIDTH = 12, 17
THINGS = numpy.zeros((2, HEIGHT, WIDTH), dtype=bool)
THINGS[0, 2:9, 3:12] = True
THINGS[1, 4:11, 12:17] = True
LABELS = [0, 1]
# Two queries, each sure of a thing and of its mask; the last class is "nothing".
classes = torch.tensor([[[9.0, -9.0, -9.0], [-9.0, 5.0, -9.0]]])
masks = torch.where(torch.tensor(THINGS), 9.0, -9.0)[None]


def is_inside(mask: numpy.ndarray) -> list[bool]:
    """For each thing, whether this is its mask but for a pixel's edge (masks are resized on the way)."""
    return [bool((mask & thing).sum() >= 0.7 * (mask | thing).sum()) for thing in THINGS]


def decode_as_runs(runs: list[int]) -> numpy.ndarray:
    """Starts from 1 and lengths, row by row."""
    flat = numpy.zeros(HEIGHT * WIDTH, dtype=bool)
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        flat[start - 1 : start - 1 + length] = True
    return flat.reshape(HEIGHT, WIDTH)


def evaluate(encoded: list[dict]) -> float:
    """COCO's average precision of these masks as results, one for each label."""
    truth = [coco_mask.encode(numpy.asfortranarray(thing, dtype=numpy.uint8)) for thing in THINGS]
    coco = COCO()
    coco.dataset = {
        "images": [{"id": 1, "height": HEIGHT, "width": WIDTH}],
        "categories": [{"id": label} for label in LABELS],
        "annotations": [
            {
                "id": label + 1, "image_id": 1, "category_id": label, "iscrowd": 0,
                "segmentation": truth[label], "area": float(coco_mask.area(truth[label])),
                "bbox": coco_mask.toBbox(truth[label]).tolist(),
            }
            for label in LABELS
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        results = coco.loadRes(
            [
                {"image_id": 1, "category_id": label, "segmentation": mask, "score": 0.9}
                for label, mask in zip(LABELS, encoded, strict=True)
            ]
        )
        evaluation = COCOeval(coco, results, "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[1])


outputs = {
    "Mask2Former": (
        Mask2FormerImageProcessorPil(),
        Mask2FormerForUniversalSegmentationOutput(
            class_queries_logits=classes, masks_queries_logits=masks
        ),
    ),
    "MaskFormer": (
        MaskFormerImageProcessorPil(),
        MaskFormerForInstanceSegmentationOutput(
            class_queries_logits=classes, masks_queries_logits=masks
        ),
    ),
}
for name, (processor, output) in outputs.items():
    options = {"target_sizes": [(HEIGHT, WIDTH)], "threshold": 0.5}
    found = processor.post_process_instance_segmentation(
        output, return_coco_annotation=True, **options
    )[0]
    labels = [segment["label_id"] for segment in found["segments_info"]]
    lists = [[int(number) for number in runs] for runs in found["segmentation"]]
    print(f"{name}: labels {labels}, {len(lists)} lists; the second begins {lists[1][:6]}")
    assert labels == LABELS and len(lists) == 3, (name, labels, len(lists))
    background, *things = map(decode_as_runs, lists)
    assert numpy.array_equal(background, ~things[0] & ~things[1])
    assert [is_inside(mask) for mask in things] == [[True, False], [False, True]]
    as_polygons = [coco_mask.frPyObjects([runs], HEIGHT, WIDTH)[0] for runs in lists]
    right = [
        coco_mask.encode(numpy.asfortranarray(mask, dtype=numpy.uint8)) for mask in things
    ]
    pixels = [int(mask.sum()) for mask in (background, *things)]
    print(f"  pixels {pixels}; as polygons {coco_mask.area(as_polygons)}")
    assert not any(any(is_inside(coco_mask.decode(each) > 0)) for each in as_polygons)
    scores = {
        "right masks": evaluate(right),
        "the lists as polygons": evaluate(as_polygons[1:]),
    }
    print(f"  AP50 by COCOeval: {scores}")
    assert scores["right masks"] > 0.99 and scores["the lists as polygons"] == 0, scores
    maps = processor.post_process_instance_segmentation(
        output, return_binary_maps=True, **options
    )[0]["segmentation"]
    inside = [is_inside(numpy.array(mask, dtype=bool)) for mask in maps]
    assert inside == [[True, False], [False, True]]
PYTHON
