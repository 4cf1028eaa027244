"""What was made for the last few pictures, so that the next question need not make it again."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Remembered(Generic[Value]):
    """The values of the ``most`` keys used last; threads may share it."""

    def __init__(self, most: int = 4) -> None:
        self._most = most
        self._values: OrderedDict[bytes, Value] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: bytes, make: Callable[[], Value]) -> Value:
        """The key's value, made now if it is not remembered."""
        # Made under the lock: two questions about a new picture wait for one encoding of it.
        with self._lock:
            if key not in self._values:
                self._values[key] = make()
            self._values.move_to_end(key)
            while len(self._values) > self._most:
                self._values.popitem(last=False)
            return self._values[key]
