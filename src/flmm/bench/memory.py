"""Peak memory of this process, and a way to run a function in a new process."""

import ctypes
import gc
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")

_PROC_SELF = Path("/proc/self")


def can_measure_peak(device: str) -> bool:
    """Return whether the peak can be measured: on a GPU by PyTorch, on a CPU by Linux only."""
    return device != "cpu" or (_PROC_SELF / "clear_refs").exists()


def reset_peak(device: str) -> None:
    """Start a new measurement: forget the peak so far.

    On the CPU, memory that is free by now, as after loading, is given back to the system first:
    what took its place would not show.
    """
    if device == "cpu":
        gc.collect()
        if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):  # glibc's
            libc.malloc_trim(0)
        (_PROC_SELF / "clear_refs").write_text("5")
    else:
        torch.cuda.reset_peak_memory_stats(device)


def read_peak(device: str) -> int:
    """Return the peak bytes of the process (or on the GPU) since ``reset_peak``."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated(device)
    status = (_PROC_SELF / "status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def run_in_new_process(work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """Return ``work``'s result from a new process; both must be picklable, by their modules."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as processes:
        return processes.submit(work, *arguments, **options).result()
