"""A tiny head and SAM for fast tests, with random weights large enough to affect the output."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from transformers import SamConfig, SamModel

from flmm.head.config import HeadConfig
from flmm.head.model import GroundingHead
from flmm.segmenters.prompts import PictureEmbeddings
from flmm.segmenters.sam import SamSegmenter
from flmm.types import ImageGeometry

CONFIG = HeadConfig(layers=2, heads=3, hidden_size=10, base_channels=4, stages=3, upsample_input=16)
SQUARE = ImageGeometry((40, 40), (24, 24), (0, 0), (24, 24), (6, 6))
PADDED = ImageGeometry((32, 48), (16, 24), (4, 0), (24, 24), (6, 6))
CROPPED = ImageGeometry((32, 48), (24, 36), (0, -6), (24, 24), (6, 6))
# Its longer side is above ``upsample_input``, so the decoder keeps its size.
LARGE = ImageGeometry((30, 100), (30, 100), (1, 0), (32, 100), (8, 25))


def scramble(module: nn.Module, seed: int = 0) -> None:
    """Set random weights so large that every part of the module affects its output."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.4, generator=generator)
    for part in module.modules():
        if isinstance(part, nn.GroupNorm | nn.LayerNorm):
            nn.init.ones_(part.weight)


def tiny_sam(seed: int = 0, width: int = 16) -> SamModel:
    config = SamSegmenter.build_tiny().sam.config.to_dict()
    widths = {"output_channels": width, "num_pos_feats": width // 2}
    sam = SamModel(
        SamConfig(
            vision_config={**config["vision_config"], **widths},
            prompt_encoder_config={**config["prompt_encoder_config"], "hidden_size": width},
            mask_decoder_config={**config["mask_decoder_config"], "hidden_size": width},
        )
    )
    scramble(sam, seed)
    return sam


def tiny_segmenter(seed: int = 0, width: int = 16) -> SamSegmenter:
    return SamSegmenter(tiny_sam(seed, width))


def tiny_head(seed: int = 0, **changes: bool | str) -> GroundingHead:
    head = GroundingHead(replace(CONFIG, **changes), tiny_segmenter(seed))  # type: ignore[arg-type]
    scramble(head, seed)
    return head.eval()


def random_picture(
    height: int, width: int, seed: int = 0
) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@dataclass(frozen=True)
class HeadInputs:
    """A head's inputs for four phrases of 1, 3, 2 and 1 tokens."""

    attention: Tensor
    hidden_states: list[Tensor]
    image_embeddings: PictureEmbeddings


def head_inputs(head: GroundingHead, geometry: ImageGeometry = SQUARE, seed: int = 0) -> HeadInputs:
    generator = torch.Generator().manual_seed(seed)
    config = head.config
    return HeadInputs(
        torch.rand(4, config.num_maps, *geometry.grid, generator=generator),
        [
            torch.randn(config.layers, tokens, config.hidden_size, generator=generator)
            for tokens in (1, 3, 2, 1)
        ],
        head.refiner.encode(random_picture(*geometry.picture, seed=seed)),
    )
