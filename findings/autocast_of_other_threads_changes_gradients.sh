#!/usr/bin/env bash
# torch 2.13.0: leaving autocast in one thread changes the gradients of another.
#
# Guess before looking: whether autocast is on is a matter of each thread, so a forward and backward
# pass gives the same gradients, to the last bit, whatever other threads do.
# Seen: the casts of weights that autocast keeps are one cache for all threads, and whichever thread
# leaves autocast empties it. A weight that another thread uses twice is then cast twice: its two
# gradients are added in float32, not in bfloat16. Training by several threads differs from run to run,
# by a bfloat16's rounding. With cache_enabled=False it does not.
# Fails when that changes.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy
"$folder/venv/bin/python" - <<'PYTHON'
from threading import Thread

import torch

torch.manual_seed(0)
torch.set_num_threads(1)
linear = torch.nn.Linear(64, 64)
inputs = torch.randn(32, 64)


def autocast(cache_enabled):
    return torch.autocast("cpu", torch.bfloat16, cache_enabled=cache_enabled)


def compute_gradient(other_thread, cache_enabled):
    def enter_and_leave():
        with autocast(cache_enabled):
            pass

    linear.zero_grad()
    with autocast(cache_enabled):
        hidden = linear(inputs).relu()
        if other_thread:
            thread = Thread(target=enter_and_leave)
            thread.start()
            thread.join()
        loss = linear(hidden).float().square().mean()
    loss.backward()
    return linear.weight.grad.clone()


for cache_enabled in (True, False):
    alone = compute_gradient(False, cache_enabled)
    assert alone.equal(compute_gradient(False, cache_enabled))
    beside = compute_gradient(True, cache_enabled)
    difference = float((alone - beside).abs().max() / alone.abs().max())
    print(f"cache {cache_enabled}: gradients differ by {difference:.1e} of the largest")
    assert (difference > 0) == cache_enabled
PYTHON
