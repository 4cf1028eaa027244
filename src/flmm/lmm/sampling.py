"""Sampling of an answer's tokens from the LMM's logits.

Letters: ``L`` tokens of a sequence, ``V`` vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from flmm.errors import InputError
from flmm.lmm.frozen_model import FrozenModel
from flmm.lmm.prompt import Prompt
from flmm.user_input import check_seed, check_temperature


@dataclass(frozen=True)
class SamplingParams:
    """The sampling settings of one answer.

    Penalties change the logits also at temperature 0; the others only what is sampled from.

    Raises:
        InputError: one is out of its range.
    """

    temperature: float = 0.0
    """0 takes the likeliest token at every step."""
    seed: int | None = None
    """The same seed samples the same tokens; None samples others each time."""
    top_k: int = 0
    """Only so many of the likeliest tokens are sampled; 0 for all."""
    top_p: float = 1.0
    """Only the likeliest tokens are sampled whose probabilities add up to this, 0 to 1."""
    min_p: float = 0.0
    """Only tokens are sampled of at least this share of the likeliest one's probability."""
    repetition_penalty: float = 1.0
    """Divides the positive logits of tokens of the prompt and the answer, multiplies the others."""
    frequency_penalty: float = 0.0
    """Taken off a token's logit for each time that the answer has it."""
    presence_penalty: float = 0.0
    """Taken off a token's logit if the answer has it."""

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        check_seed(self.seed)
        if self.top_k < 0:
            raise InputError(f"top_k is {self.top_k}; give 0 (all tokens) or more")
        if not 0 <= self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p}; give 0 to 1")
        if not 0 <= self.min_p <= 1:
            raise InputError(f"min_p is {self.min_p}; give 0 to 1")
        if self.repetition_penalty <= 0:
            raise InputError(f"repetition_penalty is {self.repetition_penalty}; give more than 0")

    @property
    def has_penalties(self) -> bool:
        """Whether earlier tokens change the logits."""
        return (self.repetition_penalty, self.frequency_penalty, self.presence_penalty) != (1, 0, 0)


GREEDY = SamplingParams()


class TokenSampler:
    """The choice of one answer's tokens, with a random generator of its own.

    Args:
        params: the answer's.
        model: the LMM.
        prompt: what is answered.
    """

    def __init__(self, params: SamplingParams, model: FrozenModel, prompt: Prompt) -> None:
        self._params = params
        device, prompt_ids = model.device, prompt.inputs["input_ids"]
        self._fixed_tokens = list(reversed(model.find_fixed_answer(prompt)))
        self._penalties = _build_penalties(params, prompt_ids.shape[1])
        self._warpers = _build_warpers(params)
        self._token_ids = prompt_ids.to(device) if params.has_penalties else prompt_ids
        self._generator = torch.Generator(device)
        if params.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(int(params.seed))  # torch takes no number of numpy's

    @property
    def is_greedy(self) -> bool:
        """Whether each token is the one that the LMM finds likeliest."""
        is_open = not (self._fixed_tokens or self._params.has_penalties)
        return is_open and self._params.temperature == 0

    def sample(self, logits: Tensor) -> Tensor:
        """Return the next token, () int64, given its (V,) logits."""
        if self._fixed_tokens:
            return torch.tensor(self._fixed_tokens.pop(), device=logits.device)
        scores = self._process(logits)
        if self._params.temperature == 0:
            token = scores.argmax(-1)
        else:
            # In float32, as transformers samples: the same seed gives the same tokens.
            probabilities = scores.softmax(-1).float()
            token = torch.multinomial(probabilities, 1, generator=self._generator)[0]
        if self._params.has_penalties:
            self._token_ids = torch.cat([self._token_ids, token.view(1, 1)], 1)
        return token

    def _process(self, logits: Tensor) -> Tensor:
        """Return (V,) logits after all settings, but for a constant that is added to all."""
        scores = logits[None].float()
        token_ids = cast(torch.LongTensor, self._token_ids)
        if self._params.has_penalties:
            scores = self._penalties(token_ids, scores)
        # Extreme penalties leave infinities, of which softmax makes what cannot be sampled from.
        scores = scores.nan_to_num(nan=torch.finfo(scores.dtype).min)
        if self._params.temperature > 0:
            scores = scores.double()
            # The likeliest token's logit becomes 0, so that no temperature makes all infinite.
            scores = (scores - scores.max()) / self._params.temperature
            scores = self._warpers(token_ids, scores)
        return scores[0]


class FixedAnswerLogitsProcessor(LogitsProcessor):
    """A logits processor that leaves only the next token of an answer that is known beforehand.

    Args:
        token_ids: the answer's, with the one that ends it.
        prompt_length: tokens before the answer.
    """

    def __init__(self, token_ids: Sequence[int], prompt_length: int) -> None:
        self._token_ids = token_ids
        self._prompt_length = prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        token_id = self._token_ids[input_ids.shape[1] - self._prompt_length]
        fixed = torch.full_like(scores, -torch.inf)
        fixed[:, token_id] = 0
        return fixed


class _OccurrencePenalty(LogitsProcessor):
    """OpenAI's penalties on the tokens that an answer already has."""

    def __init__(self, frequency: float, presence: float, prompt_length: int) -> None:
        self._frequency = frequency
        self._presence = presence
        self._prompt_length = prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        answer_ids = input_ids[:, self._prompt_length :]
        ones = torch.ones_like(answer_ids, dtype=scores.dtype)
        counts = torch.zeros_like(scores).scatter_add(1, answer_ids, ones)
        return scores - self._frequency * counts - self._presence * (counts > 0)


def _build_penalties(params: SamplingParams, prompt_length: int) -> LogitsProcessorList:
    processors = LogitsProcessorList()
    if params.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
    if params.frequency_penalty or params.presence_penalty:
        processors.append(
            _OccurrencePenalty(params.frequency_penalty, params.presence_penalty, prompt_length)
        )
    return processors


def _build_warpers(params: SamplingParams) -> LogitsProcessorList:
    """Return what limits sampling, in the order of transformers' ``generate``."""
    processors = LogitsProcessorList()
    if params.top_k:
        processors.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        processors.append(TopPLogitsWarper(params.top_p))
    if params.min_p:
        processors.append(MinPLogitsWarper(params.min_p))
    return processors
