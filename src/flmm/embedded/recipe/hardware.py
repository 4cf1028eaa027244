"""What the recipe learns on: a GPU where there is one, otherwise two cores."""

import os

import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

ON_GPU = DEVICE.type == "cuda"

TIMES_AS_MANY = 4 if ON_GPU else 1
"""Pictures of a step, for each that two cores learn from: a GPU takes hardly longer for them."""

FAST_HALF: bool = ON_GPU or bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
"""Whether this machine multiplies bfloat16 faster than float32."""

# Micro-batches learn side by side: at these sizes one on each of two cores takes half the time that
# torch's own threads need for one after the other.
SIDE_BY_SIDE = 1 if ON_GPU else 2

READERS = max((os.cpu_count() or 1) - SIDE_BY_SIDE, 1)
"""Processes that prepare the coming steps' batches."""


def steps_here(steps: int) -> int:
    """The steps of this machine that learn from as many pictures as so many of two cores."""
    return max(steps // TIMES_AS_MANY, 1)
