"""The items of a source that still need a result."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from flmm.batch.sources.items import Item, Source
from flmm.batch.storage.index import KeySet, ResultIndex, compute_key
from flmm.errors import InputError

_ITEMS_PER_LOOK_UP = 256
"""With more of them, those that are looked at are no longer in the processor's cache."""


@dataclass
class ItemCounts:
    """What is known so far of a source's items."""

    items: int = 0
    """Of this part of the work."""
    known: int = 0
    """Items that had a result before, perhaps of another version."""
    skipped: int = 0
    """Items whose result is kept."""
    skipped_failures: int = 0
    """Of these, failures."""
    changed: int = 0
    """Items whose picture, or what is asked about it, is not what it was."""


class PendingItems:
    """The items of a source without a result, with one of another version, or with a failure.

    Items without an id of their own that have the same picture are told apart: the second is
    ``picture#2``.

    Args:
        source: all items.
        index: of the results that are there.
        keep_failures: whether failures are not tried again.
        shard: (I, N): every Nth item by its id's hash, which no other item changes.
    """

    def __init__(
        self, source: Source, index: ResultIndex, keep_failures: bool, shard: tuple[int, int]
    ) -> None:
        self._source = source
        self._index = index
        self._keep_failures = keep_failures
        self._part, self._num_parts = shard
        self._seen = KeySet()
        self.counts = ItemCounts()

    def __iter__(self) -> Iterator[Item]:
        """Yield the items.

        Raises:
            InputError: the source cannot be read, or two items were given one id.
        """
        given = iter(self._source)
        while some := list(islice(given, _ITEMS_PER_LOOK_UP)):
            chunk = [
                (key, item)
                for key, item in self._tell_apart(some)
                if key % self._num_parts == self._part
            ]
            known, unchanged, failed = self._index.find(
                [key for key, _ in chunk], [int(item.version, 16) for _, item in chunk]
            )
            is_kept = unchanged & (self._keep_failures | ~failed)
            counts = self.counts
            counts.items += len(chunk)
            counts.known += int(known.sum())
            counts.skipped += int(is_kept.sum())
            counts.skipped_failures += int((is_kept & failed).sum())
            counts.changed += int((known & ~unchanged).sum())
            for (_, item), done in zip(chunk, is_kept.tolist(), strict=True):
                if not done:
                    yield item

    def _tell_apart(self, items: Sequence[Item]) -> Iterable[tuple[int, Item]]:
        """Return the items, no two of one id, and their keys."""
        keys = [compute_key(item.id) for item in items]
        if self._seen.add(keys):
            return zip(keys, items, strict=True)
        return [self._tell_from_others(item) for item in items]

    def _tell_from_others(self, given: Item) -> tuple[int, Item]:
        item, key, number = given, compute_key(given.id), 1
        while not self._seen.add([key]):
            if item.task.id is not None:
                raise InputError(
                    f"two items have the id {item.id!r}; give each its own, or leave out the"
                    " ids: the pictures' paths then name the results"
                )
            number += 1
            item = replace(given, id=f"{given.id}#{number}")
            key = compute_key(item.id)
        return key, item
