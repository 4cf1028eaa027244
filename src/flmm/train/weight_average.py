"""An exponential moving average of the trained weights."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """A moving average: ``average = decay * average + (1 - decay) * weight`` after each step."""

    def __init__(self, weights: Sequence[nn.Parameter], decay: float) -> None:
        self._weights = list(weights)
        self._decay = decay
        self.averages = [weight.detach().clone() for weight in weights]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update after step ``step``, counted from 0; in early steps the decay is smaller."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for value, weight in zip(self.averages, self._weights, strict=True):
            value.lerp_(weight, 1 - decay)

    @contextmanager
    def average_applied(self) -> Iterator[None]:
        """Replace the weights by their averages inside the block."""
        originals = [weight.detach().clone() for weight in self._weights]
        self._copy_to_weights(self.averages)
        try:
            yield
        finally:
            self._copy_to_weights(originals)

    def state_dict(self) -> dict[str, Tensor]:
        return {str(index): value for index, value in enumerate(self.averages)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for index, value in enumerate(self.averages):
            value.copy_(state[str(index)])

    @torch.no_grad()
    def _copy_to_weights(self, values: Sequence[Tensor]) -> None:
        for weight, value in zip(self._weights, values, strict=True):
            weight.copy_(value)
