"""Batches that are answered side by side: while the LMM reads one, another gets its masks."""

import ctypes
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

_NUM_THREADS = 2
"""The LMM answers one batch at a time, and takes about half of a batch's time."""

_Input = TypeVar("_Input")
_Result = TypeVar("_Result")


def map_side_by_side(
    function: Callable[[_Input], _Result], inputs: Iterable[_Input], device: torch.device
) -> Iterator[tuple[_Input, _Result]]:
    """Yield each input with its result, in order; on a processor, two are computed side by side.

    Each gets half of the cores. The operations of small models are too short to be shared between
    cores (docs/batch.md has what it gains).

    Args:
        function: called by other threads, where there are several cores.
        inputs: taken by this thread, and at most three before their results are.
        device: of the models. On others than a processor nothing is computed side by side.

    Raises:
        Exception: what the function or ``inputs`` raise.
    """
    num_cores = torch.get_num_threads()
    if device.type != "cpu" or num_cores < _NUM_THREADS:
        for one in inputs:
            yield one, function(one)
        return
    calls = _Calls()

    def run(one: _Input) -> _Result:
        # PyTorch keeps the number for each thread, and gives the last one that was set to new ones.
        torch.set_num_threads(num_cores // _NUM_THREADS)
        with calls.register():
            return function(one)

    threads = ThreadPoolExecutor(_NUM_THREADS, "flmm-batch")
    waiting: deque[tuple[_Input, Future[_Result]]] = deque()
    try:
        for one in inputs:
            waiting.append((one, threads.submit(run, one)))
            if len(waiting) > _NUM_THREADS:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    except BaseException:
        calls.interrupt()
        raise
    finally:
        threads.shutdown(cancel_futures=True)
        torch.set_num_threads(num_cores)


class _Calls:
    """Calls of other threads, which can be interrupted."""

    def __init__(self) -> None:
        self._threads: set[int] = set()
        self._are_interrupted = False
        self._lock = threading.Lock()

    @contextmanager
    def register(self) -> Iterator[None]:
        """Let what this thread does in the ``with`` block be interrupted.

        Raises:
            KeyboardInterrupt: calls were interrupted before.
        """
        thread = threading.get_ident()
        with self._lock:
            if self._are_interrupted:
                raise KeyboardInterrupt
            self._threads.add(thread)
        try:
            yield
        finally:
            with self._lock:
                self._threads.discard(thread)

    def interrupt(self) -> None:
        """Raise Ctrl-C's exception in the threads, which else would finish their batches first."""
        with self._lock:
            self._are_interrupted = True
            for thread in self._threads:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(thread), ctypes.py_object(KeyboardInterrupt)
                )
