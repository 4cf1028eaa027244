"""A small LRU cache, for values that are expensive to compute, such as picture embeddings."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class LRUCache(Generic[Value]):
    """A thread-safe cache of the ``max_size`` values used last."""

    def __init__(self, max_size: int = 4) -> None:
        self._max_size = max_size
        self._values: OrderedDict[bytes, Value] = OrderedDict()
        self._lock = threading.Lock()

    def get_or_create(self, key: bytes, create: Callable[[], Value]) -> Value:
        """Return the key's value; create it if it is not cached."""
        # Created under the lock, so that two requests with a new picture encode it once.
        with self._lock:
            if key not in self._values:
                self._values[key] = create()
            self._values.move_to_end(key)
            while len(self._values) > self._max_size:
                self._values.popitem(last=False)
            return self._values[key]
