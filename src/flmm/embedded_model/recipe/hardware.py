"""The hardware that the recipe trains on: a GPU if there is one, otherwise two cores."""

import os

import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

ON_GPU = DEVICE.type == "cuda"

BATCH_SIZE_FACTOR = 4 if ON_GPU else 1
"""Factor of the batch size on two cores; a GPU takes hardly longer for larger batches."""

FAST_BFLOAT16: bool = ON_GPU or bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
"""Whether this machine multiplies bfloat16 faster than float32."""

# Micro-batches run in parallel: at these sizes, one on each of two cores takes half the time of one
# after the other with torch's threads.
NUM_THREADS = 1 if ON_GPU else 2

NUM_WORKERS = max((os.cpu_count() or 1) - NUM_THREADS, 1)
"""Number of processes that prepare batches in advance."""


def scale_steps(steps: int) -> int:
    """Return how many steps here process as many pictures as `steps` on two cores; at least 1."""
    return max(steps // BATCH_SIZE_FACTOR, 1)
