"""Fields of requests that cannot change the answer: each is logged once."""

import logging
import threading

from flmm.errors import shorten

_MAX_FIELDS = 200
"""So many names are remembered and logged: clients choose them."""
_log = logging.getLogger("flmm.serve")


class UnusedFields:
    """Logs the fields that requests have in vain, each once; may be called from any thread."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._lock = threading.Lock()

    def add(self, name: str, reason: str) -> None:
        """Log a field, unless it has been logged before."""
        name = shorten(name)
        with self._lock:
            if name in self._names or len(self._names) >= _MAX_FIELDS:
                return
            self._names.add(name)
        _log.warning("%r is taken and not used: %s", name, reason)
