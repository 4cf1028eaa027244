"""COCO's instance annotations of phrases.

Letters: ``H W`` picture size.
"""

from typing import Literal, get_args

from flmm.answers.json_types import CocoAnnotation, CocoRLE, PhraseJson
from flmm.answers.polygons import mask_to_rings
from flmm.answers.run_lengths import decode_rle_in_box
from flmm.errors import InputError

CocoSegmentation = Literal["rle", "polygon"]
"""Compressed run lengths, or rings along the edges of the pixels."""


def check_coco_segmentation(segmentation: str) -> None:
    """Check the form of masks.

    Raises:
        InputError: there is no such form.
    """
    if segmentation not in get_args(CocoSegmentation):
        raise InputError(f"segmentation is {segmentation!r}; choose 'rle' or 'polygon'")


def build_coco_annotation(
    phrase: PhraseJson,
    annotation_id: int,
    image_id: int,
    category_id: int,
    segmentation: CocoSegmentation = "rle",
) -> CocoAnnotation:
    """Return a phrase's entry of ``annotations``."""
    x0, y0, x1, y1 = phrase["box"]
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "segmentation": phrase["mask"] if segmentation == "rle" else _build_rings(phrase),
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": phrase["area"],
        "iscrowd": 0,
        "score": phrase["score"],
    }


def _build_rings(phrase: PhraseJson) -> list[list[int]] | CocoRLE:
    """Return the mask as rings without holes.

    An empty mask stays run lengths, since pycocotools does not read a list without rings.
    """
    x0, y0, x1, y1 = phrase["box"]
    part = decode_rle_in_box(phrase["mask"], (x0, y0, x1, y1))
    return [ring.ravel().tolist() for ring in mask_to_rings(part, x0, y0)] or phrase["mask"]
