"""Sampling of an answer's tokens from the LMM's logits.

Letters: ``V`` vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from flmm.errors import InputError


@dataclass(frozen=True)
class SamplingParams:
    """The sampling settings of one answer.

    Raises:
        InputError: ``temperature`` is below 0.
    """

    temperature: float = 0.0
    """0 takes the likeliest token at every step."""
    seed: int | None = None
    """The same seed samples the same tokens; None samples others each time."""

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise InputError(f"temperature is {self.temperature}; give 0 (no sampling) or more")


class TokenSampler:
    """The choice of one answer's tokens, with a random generator of its own."""

    def __init__(self, params: SamplingParams, device: torch.device) -> None:
        self._params = params
        self._generator = torch.Generator(device)
        if params.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(params.seed)

    @property
    def is_greedy(self) -> bool:
        """Whether each token is the likeliest one."""
        return self._params.temperature == 0

    def sample(self, logits: Tensor) -> Tensor:
        """Return the next token, () int64, given its (V,) logits."""
        if self.is_greedy:
            return logits.argmax(-1)
        logits = logits.double()
        # The likeliest token's logit becomes 0, so that no temperature makes all infinite.
        probabilities = ((logits - logits.max()) / self._params.temperature).softmax(-1)
        return torch.multinomial(probabilities, 1, generator=self._generator)[0]
