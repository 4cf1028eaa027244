"""What grounding costs once the text is there: one phrase against several in one batch."""

import statistics
import time
from dataclasses import dataclass

import torch
from transformers import SamConfig, SamModel

from flmm.bench.models import LLMSize
from flmm.head.model import GroundingHead, HeadConfig
from flmm.types import ImageGeometry

PHRASES = 8
_GRID, _PICTURE, _TOKENS = 24, 672, 2


@dataclass(frozen=True)
class GroundingCost:
    """Median seconds for the decoder and refiner, the picture already embedded."""

    one_phrase: float
    all_phrases: float
    ratio: float
    """Of the several in a batch to as many single ones."""


@torch.no_grad()
def measure(size: LLMSize, device: str, repeats: int) -> GroundingCost:
    """A head for an LMM of that size, with the prompt encoder and mask decoder of SAM's own size.

    The vision encoder, which runs once a picture, is a tiny one of the same output size.
    """
    sam = SamModel(
        SamConfig(vision_config={"hidden_size": 32, "num_hidden_layers": 1, "mlp_dim": 32,
                                 "num_attention_heads": 2, "global_attn_indexes": []})
    )  # fmt: skip
    config = HeadConfig(layers=size.layers, heads=size.heads, hidden_size=size.hidden_size)
    head = GroundingHead(config, sam).eval().to(device)
    side = (_PICTURE, _PICTURE)
    geometry = ImageGeometry(side, side, (0, 0), side, (_GRID, _GRID))
    embeddings = torch.randn(
        1, head.refiner.hidden_size, *[head.refiner.embedding_side] * 2, device=device
    )

    def seconds(phrases: int) -> float:
        attention = torch.rand(phrases, config.num_maps, _GRID, _GRID, device=device)
        states = [torch.randn(size.layers, _TOKENS, size.hidden_size, device=device)] * phrases
        begin = time.perf_counter()
        head(attention, states, geometry, embeddings)
        if device != "cpu":
            torch.cuda.synchronize(device)
        return time.perf_counter() - begin

    seconds(PHRASES)
    pairs = [(seconds(1), seconds(PHRASES)) for _ in range(repeats)]
    return GroundingCost(
        statistics.median(one for one, _ in pairs),
        statistics.median(several for _, several in pairs),
        statistics.median(several / (PHRASES * one) for one, several in pairs),
    )
