"""A cache of keys and values whose sequences come and go.

Every sequence has a slot and begins at its first column, so nothing is padded and no position
shifts when another one joins or leaves. Those that are being answered are always the first ones.

Letters: ``B`` sequences, ``N`` key heads, ``K`` columns, ``L`` tokens of a prompt, ``d`` a head's
width.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

_COLUMNS_TO_SPARE = 64
"""The number of further tokens that each allocation has room for."""


class _Slots:
    """The lengths of all sequences; the layers of a cache share it."""

    def __init__(self) -> None:
        self.lengths: list[int] = []
        """The number of tokens of each sequence, without those of the forward pass that runs."""
        self.num_prefilled = 0
        """The number of sequences whose prompt is being read; 0 in a step."""
        self._rows_and_columns: tuple[Tensor, Tensor] | None = None

    @property
    def longest(self) -> int:
        return max(self.lengths)

    @property
    def are_equally_long(self) -> bool:
        return min(self.lengths) == self.longest

    def rows_and_columns(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the (B,) indices of the slots and of the column that each writes to next."""
        if self._rows_and_columns is None or self._rows_and_columns[0].device != device:
            columns = torch.tensor(self.lengths, device=device)
            self._rows_and_columns = torch.arange(len(self.lengths), device=device), columns
        return self._rows_and_columns

    def forget_columns(self) -> None:
        """Let the next step look up its columns again."""
        self._rows_and_columns = None


class _SlotLayer(CacheLayerMixin):
    """One layer's keys and values, each (slots, N, K, d)."""

    is_sliding = False

    def __init__(self, slots: _Slots) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._slots = slots

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate nothing yet: there is no slot."""
        shapes = [(0, states.shape[1], 0, states.shape[3]) for states in (key_states, value_states)]
        self.keys, self.values = key_states.new_zeros(shapes[0]), value_states.new_zeros(shapes[1])
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Write the new tokens' keys and values; return all that their queries may attend to.

        In a step, (B, N, 1, d) to (B, N, K, d) of the longest sequence; of prompts, what is given.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        slots, count = self._slots, len(key_states)
        if slots.num_prefilled:
            first, length = len(slots.lengths), key_states.shape[2]
            keys, values = self._grow(first + count, length)
            keys[first : first + count, :, :length] = key_states
            values[first : first + count, :, :length] = value_states
            return key_states, value_states
        end = slots.longest + 1
        keys, values = self._grow(count, end)
        if slots.are_equally_long:
            keys[:count, :, end - 1 : end] = key_states
            values[:count, :, end - 1 : end] = value_states
        else:
            rows, columns = slots.rows_and_columns(key_states.device)
            keys[rows, :, columns] = key_states[:, :, 0]
            values[rows, :, columns] = value_states[:, :, 0]
        return keys[:count, :, :end], values[:count, :, :end]

    def _grow(self, slots: int, columns: int) -> tuple[Tensor, Tensor]:
        """Return the keys and values, with room for so many slots and columns."""
        assert self.keys is not None
        assert self.values is not None
        earlier_slots, _, earlier_columns, _ = self.keys.shape
        if slots <= earlier_slots and columns <= earlier_columns:
            return self.keys, self.values
        if slots > earlier_slots > 0:
            slots = max(slots, 2 * earlier_slots)
        slots = max(slots, earlier_slots)
        if columns > earlier_columns:
            columns += _COLUMNS_TO_SPARE
        columns = max(columns, earlier_columns)
        self.keys = _grow_buffer(self.keys, slots, columns)
        self.values = _grow_buffer(self.values, slots, columns)
        return self.keys, self.values

    def move(self, source: int, target: int, length: int) -> None:
        """Copy a sequence to another slot."""
        for buffer in (self.keys, self.values):
            if buffer is not None:
                buffer[target, :, :length] = buffer[source, :, :length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the number of keys that queries attend to, and the first one's index."""
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        """Return the number of tokens in the longest sequence before the forward pass."""
        return 0 if self._slots.num_prefilled else self._slots.longest

    def get_max_length(self) -> int:
        """Return -1: there is no limit."""
        return -1


def _grow_buffer(earlier: Tensor, slots: int, columns: int) -> Tensor:
    # Zeros, since a weight of 0 times a value that is not a number would not be 0.
    larger = earlier.new_zeros((slots, earlier.shape[1], columns, earlier.shape[3]))
    larger[: earlier.shape[0], :, : earlier.shape[2]] = earlier
    return larger


class SlotCache(Cache):
    """The keys and values of all sequences.

    Args:
        layers: how many layers have keys of their own.
    """

    def __init__(self, layers: int) -> None:
        self._slots = _Slots()
        super().__init__(layers=[_SlotLayer(self._slots) for _ in range(layers)])

    @property
    def lengths(self) -> list[int]:
        """The number of tokens of each sequence, in the order of the slots."""
        return self._slots.lengths

    @property
    def is_prefilling(self) -> bool:
        """Whether a prompt is being read."""
        return self._slots.num_prefilled > 0

    @property
    def is_initialized(self) -> bool:
        """Whether keys are stored; no while prompts are read, which models tell by this."""
        return not self.is_prefilling and bool(self._slots.lengths)

    @contextmanager
    def prefill(self, count: int, length: int) -> Iterator[None]:
        """Let the forward pass in the block fill ``count`` new slots with prompts of one length.

        Without effect if the block raises.
        """
        self._slots.num_prefilled = count
        try:
            yield
            self._slots.lengths.extend([length] * count)
            self._slots.forget_columns()
        finally:
            self._slots.num_prefilled = 0

    def advance(self) -> None:
        """Count the token that a step wrote for every sequence."""
        self._slots.lengths[:] = [length + 1 for length in self._slots.lengths]
        self._slots.forget_columns()

    def remove(self, slot: int) -> None:
        """Remove a sequence; the last one takes its slot."""
        lengths = self._slots.lengths
        last = len(lengths) - 1
        if slot != last:
            for layer in self.layers:
                assert isinstance(layer, _SlotLayer)
                layer.move(last, slot, lengths[last])
            lengths[slot] = lengths[last]
        lengths.pop()
        self._slots.forget_columns()
