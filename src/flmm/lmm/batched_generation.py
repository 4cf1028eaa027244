"""Generation of several answers at once, with one forward pass for each step.

Letters: ``B`` sequences, ``V`` vocabulary.
"""

import functools
from collections.abc import Callable, Sequence
from inspect import signature
from typing import cast

import torch
from torch import Tensor
from transformers.generation.logits_process import LogitsProcessor, LogitsProcessorList
from transformers.generation.stopping_criteria import StoppingCriteria, StoppingCriteriaList
from transformers.generation.utils import GenerationMixin
from transformers.modeling_utils import PreTrainedModel

from flmm.lmm.base import LMMAdapter
from flmm.lmm.preallocated_cache import create_preallocated_cache
from flmm.lmm.prompt import Prompt, PromptBatch
from flmm.lmm.sampling import SamplingParams, TokenSampler


@torch.no_grad()
def generate_batch(
    adapter: LMMAdapter,
    batch: PromptBatch,
    sampling_params: Sequence[SamplingParams],
    max_new_tokens: int,
    on_tokens: Callable[[list[int]], list[bool]],
) -> None:
    """Generate the answers to all prompts of a batch at once.

    Each answer equals that of the prompt alone, except where the rounding of a padded batch differs
    from that of a single sequence.

    Args:
        batch: prompts without answers.
        sampling_params: one for each prompt; each samples from its own random generator.
        max_new_tokens: the limit of the longest answer.
        on_tokens: called with each sequence's next token; returns for each whether it has ended.
            Tokens that follow in a sequence that has ended are meaningless.
    """
    generate = _find_generate(adapter.model)
    # generate derives position ids from the mask, also those after the prompt.
    inputs = {key: value for key, value in batch.model_inputs.items() if key != "position_ids"}
    generate(
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
            [_SamplingLogitsProcessor(sampling_params, batch.prompts, adapter)]
        ),
        stopping_criteria=StoppingCriteriaList([_CallbackStoppingCriteria(on_tokens)]),
    )


def _find_generate(model: PreTrainedModel) -> Callable[..., Tensor]:
    """Return the method that generates text and takes logits processors."""
    generate = cast(Callable[..., Tensor], model.generate)
    own = getattr(type(model), "generate", None)
    if own is GenerationMixin.generate or "logits_processor" not in signature(generate).parameters:
        return generate
    # Models that also generate pictures (Janus) keep logits processors for these: for text, they
    # call the common method without them, and without guidance.
    common = cast(Callable[..., Tensor], GenerationMixin.generate)
    return functools.partial(common, model, guidance_scale=None)


class _SamplingLogitsProcessor(LogitsProcessor):
    """A logits processor that leaves only the sampled token in rows that are not greedy."""

    def __init__(
        self,
        sampling_params: Sequence[SamplingParams],
        prompts: Sequence[Prompt],
        adapter: LMMAdapter,
    ) -> None:
        samplers = [
            TokenSampler(params, adapter, prompt)
            for params, prompt in zip(sampling_params, prompts, strict=True)
        ]
        self._samplers = [entry for entry in enumerate(samplers) if not entry[1].is_greedy]

    def __call__(self, _input_ids: Tensor, scores: Tensor) -> Tensor:
        if not self._samplers:
            return scores
        scores = scores.clone()
        for row, sampler in self._samplers:
            token = sampler.sample(scores[row])
            scores[row] = -torch.inf
            scores[row, token] = 0
        return scores


class _CallbackStoppingCriteria(StoppingCriteria):
    """A stopping criterion that passes each step's tokens to a callback."""

    def __init__(self, on_tokens: Callable[[list[int]], list[bool]]) -> None:
        self._on_tokens = on_tokens

    def __call__(self, input_ids: Tensor, _scores: Tensor, **_: object) -> Tensor:
        ended = self._on_tokens(input_ids[:, -1].tolist())
        return torch.tensor(ended, device=input_ids.device)
