"""What the recipe learns on: a GPU where there is one, otherwise two cores."""

import os

import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

ON_GPU = DEVICE.type == "cuda"

BATCH_SIZE_FACTOR = 4 if ON_GPU else 1
"""Pictures of a step, for each that two cores learn from: a GPU takes hardly longer for them."""

FAST_BFLOAT16: bool = ON_GPU or bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
"""Whether this machine multiplies bfloat16 faster than float32."""

# Micro-batches learn side by side: at these sizes one on each of two cores takes half the time that
# torch's own threads need for one after the other.
NUM_THREADS = 1 if ON_GPU else 2

NUM_WORKERS = max((os.cpu_count() or 1) - NUM_THREADS, 1)
"""Processes that prepare the coming steps' batches."""


def scale_steps(steps: int) -> int:
    """The steps of this machine that learn from as many pictures as so many of two cores."""
    return max(steps // BATCH_SIZE_FACTOR, 1)
