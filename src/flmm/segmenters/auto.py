"""The list of segmenter families, and loading a segmenter with its family's class."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flmm.errors import InputError
from flmm.lmm.model_type import expand_home, read_model_type

if TYPE_CHECKING:
    from flmm.segmenters.base import Segmenter


@dataclass(frozen=True)
class SegmenterFamily:
    """A supported family of Segment Anything models."""

    module_name: str
    class_name: str
    model_types: tuple[str, ...]
    """The values of ``model_type`` in ``config.json`` that it reads."""
    hub_ids: tuple[str, ...]
    """Some of its models on the hub."""


SEGMENTER_FAMILIES = (
    SegmenterFamily(
        "flmm.segmenters.sam",
        "SamSegmenter",
        ("sam",),
        ("facebook/sam-vit-base", "facebook/sam-vit-large", "facebook/sam-vit-huge"),
    ),
    SegmenterFamily(
        "flmm.segmenters.sam_hq",
        "SamHQSegmenter",
        ("sam_hq",),
        ("syscv-community/sam-hq-vit-base", "syscv-community/sam-hq-vit-large"),
    ),
    SegmenterFamily(
        "flmm.segmenters.sam2",
        "Sam2Segmenter",
        ("sam2", "sam2_video"),
        (
            "facebook/sam2.1-hiera-tiny",
            "facebook/sam2.1-hiera-small",
            "facebook/sam2.1-hiera-base-plus",
            "facebook/sam2.1-hiera-large",
        ),
    ),
    SegmenterFamily(
        "flmm.segmenters.edgetam",
        "EdgeTamSegmenter",
        ("edgetam", "edgetam_video"),
        ("yonigozlan/EdgeTAM-hf",),
    ),
    SegmenterFamily(
        "flmm.segmenters.sam3_tracker",
        "Sam3TrackerSegmenter",
        ("sam3_tracker", "sam3_tracker_video", "sam3_video"),
        ("facebook/sam3",),
    ),
)
"""A family that is added here is loaded, listed by ``flmm models`` and tested by
``tests/contract/test_segmenters.py``."""


def load_segmenter_class(family: SegmenterFamily) -> "type[Segmenter]":
    """Import the family's module and return its class."""
    segmenter: type[Segmenter] = getattr(
        importlib.import_module(family.module_name), family.class_name
    )
    return segmenter


def load_segmenter(name: str | Path) -> "Segmenter":
    """Load the SAM in a folder or hub repository, in float32; safetensors only, never a pickle.

    Raises:
        InputError: there is none, it is of no supported family, or its weights are not whole.
    """
    import torch

    from flmm.pretrained_weights import load_pretrained

    name = expand_home(str(name))
    model_type = read_model_type(name, role="SAM")
    for family in SEGMENTER_FAMILIES:
        if model_type in family.model_types:
            break
    else:
        supported = ", ".join(kind for family in SEGMENTER_FAMILIES for kind in family.model_types)
        raise InputError(
            f"the SAM {name!r} is a model of type {model_type!r}; give one of type {supported}"
        )
    segmenter_class = load_segmenter_class(family)
    # The file may be in half precision, which does not run on a CPU.
    sam = load_pretrained(
        segmenter_class.model_class, "SAM", name, use_safetensors=True, dtype=torch.float32
    )
    return segmenter_class(sam)
