"""A small LMM and head of random weights, for fast tests."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from transformers import SamConfig, SamModel

from flmm.head.checkpoint import save_head
from flmm.head.config import HeadConfig
from flmm.head.model import GroundingHead
from flmm.lmm.families.llava import LlavaAdapter

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
    sam = SamModel(
        SamConfig(
            vision_config={
                "hidden_size": 16,
                "output_channels": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 64,
                "patch_size": 8,
                "window_size": 4,
                "global_attn_indexes": [0],
                "num_pos_feats": 8,
                "mlp_dim": 16,
            },
            prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 8},
            mask_decoder_config={
                "hidden_size": 16,
                "mlp_dim": 16,
                "num_attention_heads": 2,
                "iou_head_hidden_dim": 16,
            },
        )
    )
    head = GroundingHead(replace(CONFIG, selector=selector), sam)
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
        head = GroundingHead(config, head.refiner.sam)
    head.config = replace(config, base_model_name_or_path=base, refiner_name_or_path="sam")
    save_head(head, folder)
    head.refiner.sam.save_pretrained(folder / "sam")
    return folder
