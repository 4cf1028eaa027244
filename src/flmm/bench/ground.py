"""The time to ground a given text, compared with the LMM's own forward pass over it."""

import statistics
import time
from dataclasses import dataclass

import torch

from flmm.bench.head import build_segmenter
from flmm.bench.models import LLMSize, build_picture, build_random_lmm
from flmm.grounding.grounder import Grounder

_TEXT = (
    "A cat sleeps on the grass beside a red ball, a dog sits under the tree, and a bird flies over"
    " the house by the river."
)
_MASK_STAGES = ("picture embedding", "masks")


@dataclass(frozen=True)
class GroundCost:
    """Median seconds; the vision tower's and SAM's encoder's results are cached, as for a second
    question about a picture."""

    forward: float
    """The LMM alone: picture and text are prepared and read once."""
    ground: float
    """``Grounder.ground`` up to the masks: the same, recorded, and the phrases are found."""
    ratio: float
    """Median over repeats of ``ground`` ÷ the same repeat's ``forward``."""
    masks: float
    """Of all phrases."""
    phrases: int


def build_random_grounder(size: LLMSize, device: str, dtype: torch.dtype) -> Grounder:
    """Return a random LMM of 576 image tokens and a random SAM, without a head."""
    adapter = build_random_lmm(576, size, dtype)
    adapter.model.to(torch.device(device))  # type: ignore[arg-type]
    return Grounder(adapter, segmenter=build_segmenter())


def measure(grounder: Grounder, repeats: int) -> GroundCost:
    """Time both in turn, ``repeats`` times."""
    picture = build_picture()
    adapter, question = grounder.adapter, grounder.pipeline.prompt_templates.caption

    @torch.no_grad()
    def time_forward() -> float:
        begin = time.perf_counter()
        prompt = adapter.build_prompt(picture, question, _TEXT)
        adapter.model.base_model(**adapter.collate([prompt]).model_inputs, use_cache=False)
        if adapter.device.type == "cuda":
            torch.cuda.synchronize(adapter.device)
        return time.perf_counter() - begin

    answer = grounder.ground(picture, _TEXT)
    time_forward()
    forward, ground, masks = [], [], []
    for _ in range(repeats):
        forward.append(time_forward())
        answer = grounder.ground(picture, _TEXT)
        masks.append(sum(answer.timings.get(stage, 0.0) for stage in _MASK_STAGES))
        ground.append(sum(answer.timings.values()) - masks[-1])
    return GroundCost(
        statistics.median(forward),
        statistics.median(ground),
        statistics.median(own / alone for own, alone in zip(ground, forward, strict=True)),
        statistics.median(masks),
        len(answer.phrases),
    )
