"""A cache of keys and values with memory preallocated for the next tokens.

transformers' own cache copies all of a layer's keys and values for every generated token. In large
batches that takes longer than the model itself.

Letters: ``B`` sequences, ``N`` heads, ``K`` tokens so far, ``d`` a head's width.
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer
from transformers.modeling_utils import PreTrainedModel

_PREALLOCATED_TOKENS = 64
"""The number of further tokens that each allocation has room for."""


def create_dynamic_cache(model: PreTrainedModel) -> DynamicCache | None:
    """Create the cache that ``generate`` would; None if the model creates one of its own class."""
    # transformers types its models' methods as tensors.
    supports_cache = cast(Callable[[], bool], model._supports_default_dynamic_cache)
    if not supports_cache():
        return None
    return DynamicCache(config=model.config.get_text_config(decoder=True))


def create_preallocated_cache(model: PreTrainedModel) -> DynamicCache | None:
    """Create the cache that ``generate`` would, with preallocation in layers of full attention.

    None if the model creates a cache of its own class.
    """
    cache = create_dynamic_cache(model)
    if cache is None:
        return None
    cache.layers = [
        _PreallocatedLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
    return cache


class _PreallocatedLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """One layer's keys and values, as views of the filled part of larger buffers."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._buffers: tuple[Tensor, Tensor] | None = None
        """Keys and values, each (B, N, at least K, d)."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Append the next tokens' keys and values; return all tokens', (B, N, K, d), as views."""
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
