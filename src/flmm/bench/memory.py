"""The most memory that a piece of work needs, each piece in a process of its own."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import ParamSpec

import torch

P = ParamSpec("P")

_PROC_SELF = Path("/proc/self")


def can_measure_peak(device: str) -> bool:
    """Whether the peak can be told: on a GPU by torch, on a CPU by Linux."""
    return device != "cpu" or (_PROC_SELF / "clear_refs").exists()


def reset_peak(device: str) -> None:
    """What was needed so far does not count."""
    if device == "cpu":
        (_PROC_SELF / "clear_refs").write_text("5")
    else:
        torch.cuda.reset_peak_memory_stats(device)


def read_peak(device: str) -> int:
    """Bytes that the process (or the GPU) held at most since ``forget_peak``."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated(device)
    status = (_PROC_SELF / "status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def run_in_new_process(work: Callable[P, int], *arguments: P.args, **options: P.kwargs) -> int:
    """What ``work`` returns, with nothing left over from other work; it must be importable."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as processes:
        return processes.submit(work, *arguments, **options).result()
