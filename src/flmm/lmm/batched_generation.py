"""Several answers said at once: one forward pass a token for all of them.

Letters: ``B`` sequences, ``V`` vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from transformers.generation.logits_process import LogitsProcessor, LogitsProcessorList
from transformers.generation.stopping_criteria import StoppingCriteria, StoppingCriteriaList

from flmm.errors import InputError
from flmm.lmm.base import LMMAdapter
from flmm.lmm.preallocated_cache import create_preallocated_cache
from flmm.lmm.prompt import PromptBatch


@dataclass(frozen=True)
class SamplingParams:
    """How an answer's tokens are chosen.

    Raises:
        InputError: ``temperature`` is below 0.
    """

    temperature: float = 0.0
    """0 takes the likeliest token at every step."""
    seed: int | None = None
    """The same seed draws the same tokens; None draws others each time."""

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise InputError(f"temperature is {self.temperature}; give 0 (no chance) or more")


@torch.no_grad()
def generate_batch(
    adapter: LMMAdapter,
    batch: PromptBatch,
    sampling_params: Sequence[SamplingParams],
    max_new_tokens: int,
    on_tokens: Callable[[list[int]], list[bool]],
) -> None:
    """Lets the model answer all prompts at once.

    An answer is what the prompt alone would be given, as far as the numbers of a padded batch are
    those of a single sequence (equal but for rounding).

    Args:
        batch: of prompts without answers.
        samplings: one a prompt; each draws from a generator of its own.
        max_new_tokens: of the longest answer.
        on_tokens: is given each sequence's next token, and says of each whether it has ended. What
            follows in a sequence that has ended means nothing.
    """
    sequences = cast(Callable[..., Tensor], adapter.model.generate)
    # generate counts positions from the mask, also those past the prompt.
    inputs = {key: value for key, value in batch.model_inputs.items() if key != "position_ids"}
    sequences(
        **inputs,
        do_sample=False,
        temperature=None,
        top_p=None,
        top_k=None,
        max_new_tokens=max_new_tokens,
        num_beams=1,
        pad_token_id=adapter.pad_token_id,
        cache=create_preallocated_cache(adapter.model),
        logits_processor=LogitsProcessorList(
            [_SamplingLogitsProcessor(sampling_params, adapter.device)]
        ),
        stopping_criteria=StoppingCriteriaList([_CallbackStoppingCriteria(on_tokens)]),
    )


class _SamplingLogitsProcessor(LogitsProcessor):
    """Leaves, of the sequences that want chance, only a token that was drawn."""

    def __init__(self, samplings: Sequence[SamplingParams], device: torch.device) -> None:
        self._sampled_rows: list[tuple[int, float, torch.Generator]] = []
        for row, sampling in enumerate(samplings):
            if sampling.temperature > 0:
                generator = torch.Generator(device)
                if sampling.seed is None:
                    generator.seed()
                else:
                    generator.manual_seed(sampling.seed)
                self._sampled_rows.append((row, sampling.temperature, generator))

    def __call__(self, _input_ids: Tensor, scores: Tensor) -> Tensor:
        if not self._sampled_rows:
            return scores
        scores = scores.clone()
        for row, temperature, generator in self._sampled_rows:
            logits = scores[row].double()
            # The best token's is 0, so that no temperature makes all of them infinite.
            chances = ((logits - logits.max()) / temperature).softmax(-1)
            token = torch.multinomial(chances, 1, generator=generator)
            scores[row] = -torch.inf
            scores[row, token] = 0
        return scores


class _CallbackStoppingCriteria(StoppingCriteria):
    """Hands on each step's tokens."""

    def __init__(self, on_tokens: Callable[[list[int]], list[bool]]) -> None:
        self._on_tokens = on_tokens

    def __call__(self, input_ids: Tensor, _scores: Tensor, **_: object) -> Tensor:
        ended = self._on_tokens(input_ids[:, -1].tolist())
        return torch.tensor(ended, device=input_ids.device)
