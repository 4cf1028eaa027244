"""What an answer costs, alone and with others: transformers' ``generate`` and the decoding engine.

Letters: ``T`` tokens of an answer.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from flmm.attention.batched_tracing import trace_generation_batch
from flmm.attention.generation_step import GenerationStep
from flmm.attention.padded_generation import generate_padded
from flmm.attention.trace import Trace, TracedPhrase
from flmm.bench.head import NUM_PHRASES, build_segmenter
from flmm.bench.models import ImageTokens, LLMSize, build_picture, build_random_lmm
from flmm.grounding.grounder import Grounder
from flmm.grounding.mask_options import MaskOptions
from flmm.lmm.decoding.support import find_unsupported_reason
from flmm.lmm.prompt import Prompt
from flmm.lmm.sampling import GREEDY, SamplingParams
from flmm.stopwatch import Stopwatch
from flmm.types import PhraseSpan

Way = Literal["transformers", "engine", "recorded", "grounded"]
"""transformers' ``generate``; flmm's engine; the same, recorded; and with masks of 8 phrases."""


@dataclass(frozen=True)
class AnswerCost:
    """The cost of answers that are generated together."""

    image_tokens: ImageTokens
    answers: int
    way: Way
    seconds: float
    """Median, of all answers."""
    ratio: float
    """Median over repeats of the ratio to the same repeat's ``generate``."""


@dataclass
class _Listener:
    prompt: Prompt
    max_new_tokens: int
    wants_trace: bool
    sampling_params: SamplingParams = field(default=GREEDY)
    trace: Trace | None = None

    def on_step(self, _: GenerationStep) -> bool:
        return True

    def on_end(self, _: Tensor, trace: Trace | None) -> None:
        self.trace = trace


def measure(
    image_tokens: ImageTokens,
    size: LLMSize,
    answers: Sequence[int],
    new_tokens: int,
    device: str,
    dtype: torch.dtype,
    repeats: int,
    on_message: Callable[[str], None],
) -> tuple[list[AnswerCost], str | None]:
    """Time each way in turn, ``repeats`` times, on a random LMM and SAM.

    Args:
        image_tokens, size: of the LMM.
        answers: how many are generated together, each a row of ways.
        new_tokens: T of each answer.
        device, dtype: of the LMM.
        repeats: of every way.
        on_message: called with what is measured next.

    Returns:
        The costs, and why the engine does not run this LMM, None if it does.
    """
    on_message(f"making a random LMM with {image_tokens} image tokens")
    adapter = build_random_lmm(image_tokens, size, dtype)
    adapter.model.to(torch.device(device))  # type: ignore[arg-type]
    grounder = Grounder(adapter, segmenter=build_segmenter())
    prompt = adapter.build_prompt(build_picture(), "What is in the picture?")
    for way in get_args(Way):
        _run(grounder, [prompt], 2, way)
    costs = []
    for count in answers:
        seconds: dict[Way, list[float]] = {way: [] for way in get_args(Way)}
        for repeat in range(repeats):
            for way, times in seconds.items():
                on_message(f"{image_tokens} image tokens, {count} together, {way}, {repeat + 1}")
                begin = time.perf_counter()
                _run(grounder, [prompt] * count, new_tokens, way)
                if device != "cpu":
                    torch.cuda.synchronize(device)
                times.append(time.perf_counter() - begin)
        plain = seconds["transformers"]
        for way, times in seconds.items():
            ratio = statistics.median(own / other for own, other in zip(times, plain, strict=True))
            costs.append(AnswerCost(image_tokens, count, way, statistics.median(times), ratio))
    return costs, find_unsupported_reason(adapter)


@torch.no_grad()
def _run(grounder: Grounder, prompts: Sequence[Prompt], new_tokens: int, way: Way) -> None:
    """Generate an answer of ``new_tokens`` tokens to each prompt."""
    wants_trace = way in ("recorded", "grounded")
    listeners = [_Listener(prompt, new_tokens, wants_trace) for prompt in prompts]
    if way == "transformers":
        generate_padded(grounder.adapter, listeners)
    else:
        trace_generation_batch(grounder.adapter, listeners)
    if way == "grounded":
        picture, predictor = build_picture(), grounder.pipeline.mask_predictor
        for listener in listeners:
            assert listener.trace is not None
            phrases = predictor.add_references(picture, _choose_phrases(listener.trace))
            predictor.predict(picture, phrases, MaskOptions(), Stopwatch())


def _choose_phrases(trace: Trace) -> list[TracedPhrase]:
    """Return phrases of two tokens each, as if the text, which is meaningless, had some."""
    count = len(trace.token_ids)
    return [
        (PhraseSpan("thing", 0, 5, (index % count, (index + 1) % count)), trace)
        for index in range(NUM_PHRASES)
    ]
