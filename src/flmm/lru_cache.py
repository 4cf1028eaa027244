"""What was made for the last few pictures, so that the next question need not make it again."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class LRUCache(Generic[Value]):
    """The values of the ``most`` keys used last; threads may share it."""

    def __init__(self, max_size: int = 4) -> None:
        self._max_size = max_size
        self._values: OrderedDict[bytes, Value] = OrderedDict()
        self._lock = threading.Lock()

    def get_or_create(self, key: bytes, create: Callable[[], Value]) -> Value:
        """The key's value, made now if it is not remembered."""
        # Made under the lock: two questions about a new picture wait for one encoding of it.
        with self._lock:
            if key not in self._values:
                self._values[key] = create()
            self._values.move_to_end(key)
            while len(self._values) > self._max_size:
                self._values.popitem(last=False)
            return self._values[key]
