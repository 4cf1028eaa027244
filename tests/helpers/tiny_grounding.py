"""A small LMM and head of random weights, for fast tests."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from flmm.head.checkpoint import save_head
from flmm.head.config import HeadConfig
from flmm.head.model import GroundingHead
from flmm.lmm.families.llava import LlavaAdapter
from flmm.segmenters.sam import SamSegmenter

CONFIG = HeadConfig(
    layers=3,
    heads=4,
    hidden_size=32,
    base_channels=4,
    stages=3,
    upsample_input=16,
    selector=True,
    selector_width=8,
    # Every word is a phrase, so that there are some whatever the random LMM generates.
    selector_threshold=0.0,
    segment_prompt="Where is {phrase}?",
)


def tiny_head(selector: bool = True) -> GroundingHead:
    head = GroundingHead(replace(CONFIG, selector=selector), SamSegmenter.build_tiny())
    # With this seed the refined masks are neither empty nor the whole picture.
    generator = torch.Generator().manual_seed(9)
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return head.eval()


def save_lmm(folder: Path) -> Path:
    adapter = LlavaAdapter.build_tiny()
    adapter.model.save_pretrained(folder)
    adapter.tokenizer.save_pretrained(folder)
    adapter.image_processor.save_pretrained(folder)
    return folder


def save_tiny_head(folder: Path, base: str, **changes: int) -> Path:
    """Save a head with its refiner in its folder; ``changes`` to its config fit another LMM."""
    head = tiny_head()
    config = replace(CONFIG, **changes)  # type: ignore[arg-type]
    if changes:
        head = GroundingHead(config, head.refiner.segmenter)
    head.config = replace(config, base_model_name_or_path=base, refiner_name_or_path="sam")
    save_head(head, folder)
    head.refiner.sam.save_pretrained(folder / "sam")
    return folder
