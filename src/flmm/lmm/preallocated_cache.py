"""A cache of keys and values with room for the next tokens.

transformers' own copies all of a layer's keys and values for every token that is said. For many
sequences at once that takes longer than the model.

Letters: ``B`` sequences, ``N`` heads, ``K`` tokens so far, ``d`` a head's width.
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer
from transformers.modeling_utils import PreTrainedModel

_PREALLOCATED_TOKENS = 64
"""Tokens for which memory is asked at once, as nobody knows an answer's length."""


def create_preallocated_cache(model: PreTrainedModel) -> DynamicCache | None:
    """The cache that ``generate`` would make for the model, with room in layers that keep all.

    None where the model makes its own.
    """
    # transformers types its models' methods as tensors.
    takes_it = cast(Callable[[], bool], model._supports_default_dynamic_cache)
    if not takes_it():
        return None
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    cache.layers = [
        _PreallocatedLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
    return cache


class _PreallocatedLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """One layer's keys and values, which only grow."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._buffers: tuple[Tensor, Tensor] | None = None
        """(B, N, K and room, d) each."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Takes those of the next tokens; gives (B, N, K, d) keys and values of all, as views."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        begin = self.get_seq_length()
        end = begin + key_states.shape[-2]
        if self._buffers is None or end > self._buffers[0].shape[-2]:
            self._buffers = (
                _grow_buffer(self.keys, key_states, begin, end),
                _grow_buffer(self.values, value_states, begin, end),
            )
        keys, values = self._buffers
        keys[..., begin:end, :] = key_states
        values[..., begin:end, :] = value_states
        self.keys, self.values = keys[..., :end, :], values[..., :end, :]
        return self.keys, self.values


def _grow_buffer(earlier: Tensor | None, new: Tensor, begin: int, end: int) -> Tensor:
    shape = (*new.shape[:-2], end + _PREALLOCATED_TOKENS, new.shape[-1])
    larger = torch.empty(shape, dtype=new.dtype, device=new.device)
    if earlier is not None and begin:
        larger[..., :begin, :] = earlier
    return larger
