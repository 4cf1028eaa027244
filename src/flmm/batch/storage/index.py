"""Which items have results: some 20 bytes of memory each, so that ten million fit."""

from array import array
from collections.abc import Iterable, Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from flmm.batch.storage.records import ResultState

_Keys = NDArray[np.uint64]


def compute_key(identity: str) -> int:
    """Return 64 bits for an id; among ten million, two are the same once in 400,000 runs."""
    return int.from_bytes(blake2b(identity.encode(), digest_size=8).digest(), "little")


class ResultIndex:
    """The version of each id's last result, and whether it is a failure.

    Args:
        states: the oldest first.
    """

    def __init__(self, states: Iterable[ResultState]) -> None:
        keys, versions, failed = array("Q"), array("Q"), array("b")
        for state in states:
            keys.append(compute_key(state.id))
            versions.append(int(state.version, 16))
            failed.append(state.error is not None)
        self.num_rows = len(keys)
        """Also those that a later one of the same id replaces."""
        all_keys = np.frombuffer(keys, np.uint64)
        order = np.argsort(all_keys, kind="stable")
        ordered = all_keys[order]
        is_last = np.append(ordered[1:] != ordered[:-1], True)[: len(ordered)]
        self.positions: NDArray[np.int64] = order[is_last]
        """(n,) the row of each id's last result, by key."""
        self._keys: _Keys = ordered[is_last]
        self._versions: _Keys = np.frombuffer(versions, np.uint64)[self.positions]
        self._failed = np.frombuffer(failed, np.bool_)[self.positions]

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def num_failed(self) -> int:
        """The number of ids whose last result is a failure."""
        return int(self._failed.sum())

    def find(self, keys: Sequence[int], versions: Sequence[int]) -> tuple[NDArray[np.bool_], ...]:
        """Return which items are known, which of these unchanged, and which of these failed.

        Args:
            keys: ``compute_key`` of n ids.
            versions: of n items.

        Returns:
            Three (n,) arrays.
        """
        if not len(self._keys):
            return (np.zeros(len(keys), dtype=np.bool_),) * 3
        wanted = np.asarray(keys, dtype=np.uint64)
        rows = np.searchsorted(self._keys, wanted).clip(max=len(self._keys) - 1)
        known = self._keys[rows] == wanted
        unchanged = known & (self._versions[rows] == np.asarray(versions, dtype=np.uint64))
        return known, unchanged, unchanged & self._failed[rows]


class KeySet:
    """A set of 64-bit keys, eight bytes each."""

    def __init__(self) -> None:
        self._sorted: list[_Keys] = []
        self._recent: set[int] = set()

    def add(self, keys: Sequence[int]) -> bool:
        """Add keys if all of them are new, and no two the same; return whether that is so."""
        added = set(keys)
        if len(added) < len(keys) or not self._recent.isdisjoint(added):
            return False
        wanted = np.array(keys, dtype=np.uint64)
        for part in self._sorted:
            places = np.searchsorted(part, wanted).clip(max=len(part) - 1)
            if (part[places] == wanted).any():
                return False
        self._recent |= added
        if len(self._recent) >= _MAX_RECENT:
            self._merge(np.array(sorted(self._recent), dtype=np.uint64))
            self._recent.clear()
        return True

    def _merge(self, part: _Keys) -> None:
        # Sizes at least double from the last to the first, so there are few parts.
        while self._sorted and len(self._sorted[-1]) < 2 * len(part):
            part = np.sort(np.concatenate([self._sorted.pop(), part]))
        self._sorted.append(part)


_MAX_RECENT = 2**16
