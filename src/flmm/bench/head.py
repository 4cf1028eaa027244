"""The time to ground phrases of a recorded text: one phrase against several in one batch."""

import statistics
import time
from dataclasses import dataclass

import torch
from transformers import SamConfig, SamModel

from flmm.bench.models import LLMSize
from flmm.head.config import HeadConfig
from flmm.head.model import GroundingHead
from flmm.segmenters.prompts import PictureEmbeddings
from flmm.segmenters.sam import SamSegmenter
from flmm.types import ImageGeometry

NUM_PHRASES = 8
_GRID, _PICTURE, _TOKENS = 24, 672, 2


@dataclass(frozen=True)
class HeadCost:
    """Median seconds of decoder and refiner, without SAM's vision encoder."""

    one_phrase: float
    all_phrases: float
    ratio: float
    """Median of the batch's time ÷ the time of as many single phrases."""


def build_segmenter() -> SamSegmenter:
    """Return a random SAM whose prompt encoder and mask decoder have their real size.

    Its vision encoder, which is not measured, is a tiny one with the same output size.
    """
    config = SamConfig(
        vision_config={"hidden_size": 32, "num_hidden_layers": 1, "mlp_dim": 32,
                       "num_attention_heads": 2, "global_attn_indexes": []}
    )  # fmt: skip
    return SamSegmenter(SamModel(config))


@torch.no_grad()
def measure(size: LLMSize, device: str, repeats: int) -> HeadCost:
    """Measure a head for an LMM of that size, ``repeats`` times."""
    config = HeadConfig(layers=size.layers, heads=size.heads, hidden_size=size.hidden_size)
    head = GroundingHead(config, build_segmenter()).eval().to(device)
    size_px = (_PICTURE, _PICTURE)
    geometry = ImageGeometry(size_px, size_px, (0, 0), size_px, (_GRID, _GRID))
    side = head.refiner.segmenter.embedding_side
    embeddings = PictureEmbeddings(
        (torch.randn(1, head.refiner.hidden_size, side, side, device=device),)
    )

    def time_grounding(phrases: int) -> float:
        attention = torch.rand(phrases, config.num_maps, _GRID, _GRID, device=device)
        states = [torch.randn(size.layers, _TOKENS, size.hidden_size, device=device)] * phrases
        begin = time.perf_counter()
        head(attention, states, geometry, embeddings)
        if device != "cpu":
            torch.cuda.synchronize(device)
        return time.perf_counter() - begin

    time_grounding(NUM_PHRASES)
    pairs = [(time_grounding(1), time_grounding(NUM_PHRASES)) for _ in range(repeats)]
    return HeadCost(
        statistics.median(single for single, _ in pairs),
        statistics.median(batch for _, batch in pairs),
        statistics.median(batch / (NUM_PHRASES * single) for single, batch in pairs),
    )
