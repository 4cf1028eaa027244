"""Which sequences share a batch, in which all are padded to the length of the longest."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from flmm.lmm.base import LMMAdapter
from flmm.lmm.prompt import Prompt

BatchSequences = Callable[[Sequence[int], int], Iterable[Sequence[int]]]
"""From the lengths of sequences, and how many first tokens of each are read once for all, to
batches of their indices."""


def batch_all(lengths: Sequence[int], _num_shared: int) -> list[range]:
    """Return one batch of all sequences."""
    return [range(len(lengths))]


def batch_in_order(lengths: Sequence[int], _num_shared: int, *, size: int) -> list[range]:
    """Return batches of at most ``size`` sequences, in their order."""
    count = len(lengths)
    return [range(first, min(first + size, count)) for first in range(0, count, size)]


@dataclass
class LengthBatcher:
    """Batches of sequences of similar length, with counts of the tokens that are read."""

    max_sequences: int
    """In a batch."""
    max_padding: float
    """Highest share of padding, 0 to 1, in a batch of whole sequences. Where their beginnings are
    read once the share is of whole sequences all the same: more of the little that is left is
    cheaper than a pass for each length."""
    num_tokens: int = 0
    num_padded_tokens: int = 0
    """Padding included."""

    @property
    def padding(self) -> float:
        """The share of padding in all that was read, 0 to 1."""
        return 1 - self.num_tokens / self.num_padded_tokens if self.num_padded_tokens else 0.0

    def __call__(self, lengths: Sequence[int], num_shared: int) -> Iterator[list[int]]:
        """Yield batches of the sequences' indices, the shortest sequences first."""
        self.num_tokens += num_shared
        self.num_padded_tokens += num_shared
        batch: list[int] = []
        tokens = 0
        for index in sorted(range(len(lengths)), key=lambda index: (lengths[index], index)):
            length = lengths[index]
            padded = length * (len(batch) + 1)
            is_full = len(batch) == self.max_sequences
            if batch and (is_full or padded - tokens - length > self.max_padding * padded):
                yield self._count(batch, lengths, num_shared)
                batch, tokens = [], 0
            batch.append(index)
            tokens += length
        if batch:
            yield self._count(batch, lengths, num_shared)

    def _count(self, batch: list[int], lengths: Sequence[int], num_shared: int) -> list[int]:
        in_batch = [lengths[index] - num_shared for index in batch]
        self.num_tokens += sum(in_batch)
        self.num_padded_tokens += max(in_batch) * len(batch)
        return batch


def group_for_padding(adapter: LMMAdapter, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Return the indices of the prompts that can share a padded batch, group by group.

    All are one group, unless the LLM's layers choose blocks of keys: those begin at a batch's first
    column, padding or not, so that padding would change which keys a token sees.
    """
    if getattr(adapter.text_model.config, "index_block_size", None) is None:
        return [list(range(len(prompts)))]
    groups: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        groups.setdefault(prompt.length, []).append(index)
    return list(groups.values())
