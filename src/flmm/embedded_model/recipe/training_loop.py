"""The training loop of all stages of the recipe: resumable, with progress."""

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Generic, Self, TypeVar

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.multiprocessing.reductions import reduce_tensor
from torch.optim import AdamW, Optimizer
from torch.utils.data import DataLoader, Dataset

from flmm.atomic_write import atomic_write
from flmm.embedded_model.recipe.hardware import DEVICE, FAST_BFLOAT16, NUM_THREADS, NUM_WORKERS
from flmm.embedded_model.recipe.muon import Muon
from flmm.progress import ProgressCallback, no_progress

Batch = TypeVar("Batch")

_MAX_INLINE_BYTES = 2**16
"""Size up to which a tensor is sent by value."""

_CHECKPOINT_EVERY = 100
_WARM_UP_SHARE = 0.03


class TensorDataclass:
    """A dataclass whose tensors can be moved to a device."""

    def to(self, device: torch.device) -> Self:
        """Return a copy with all tensors on a device."""
        moved: Self = replace(self, **send_to_device(vars(self), device))  # type: ignore[type-var]
        return moved


@dataclass(frozen=True)
class TrainingStage(Generic[Batch]):
    """The module, batches and settings of one stage of training.

    `batches(step)` returns the step's micro-batches (small ones fit the CPU's cache) and must
    depend on the step alone, so that a resumed run gets the same as an uninterrupted one. It runs
    in another process; tensors and `TensorDataclass`es of a batch are moved to the module's device.
    """

    name: str
    module: nn.Module
    steps: int
    batches: Callable[[int], Sequence[Batch]]
    loss: Callable[[Batch], Tensor]
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0


class _Steps(Dataset[Sequence[Batch]]):
    """The micro-batches of each step."""

    def __init__(self, batches: Callable[[int], Sequence[Batch]]) -> None:
        self._batches = batches

    def __getitem__(self, step: int) -> Sequence[Batch]:
        return self._batches(step)


def _prefetch_batches(stage: TrainingStage[Batch], first_step: int) -> Iterable[Sequence[Batch]]:
    """Return the micro-batches from `first_step` on, prepared in advance by other processes."""
    return DataLoader(
        _Steps(stage.batches),
        batch_size=None,
        sampler=range(first_step, stage.steps),
        num_workers=NUM_WORKERS,
        multiprocessing_context="fork",
        worker_init_fn=_send_small_tensors_by_value,
    )


def _send_small_tensors_by_value(_worker: int) -> None:
    """Avoid a shared-memory file per tensor: a batch has hundreds, which took a third of a step."""
    ForkingPickler.register(Tensor, _reduce_tensor)


def _reduce_tensor(tensor: Tensor) -> tuple[Callable[..., Tensor], tuple[object, ...]]:
    if tensor.nbytes > _MAX_INLINE_BYTES:
        return reduce_tensor(tensor)  # type: ignore[no-any-return, no-untyped-call]
    return torch.from_numpy, (tensor.numpy(),)


def _build_optimizers(stage: TrainingStage[Batch]) -> list[Optimizer]:
    """Return Muon for the matrices inside blocks, and AdamW for all other parameters."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in stage.module.named_parameters():
        if not parameter.requires_grad:
            continue
        inner = parameter.ndim == 2 and ".layers." in name and "embedding" not in name
        (matrices if inner else others).append(parameter)
    optimizers: list[Optimizer] = [
        AdamW(others, stage.learning_rate, betas=(0.9, 0.98), weight_decay=stage.weight_decay)
    ]
    if matrices:
        optimizers.append(Muon(matrices, stage.learning_rate, stage.weight_decay, momentum=0.95))
    return optimizers


def learning_rate_factor(progress: float) -> float:
    """Return the learning rate's factor: linear warm-up over 3 %, then a cosine to 2 %.

    `progress` and the result are in 0..1.
    """
    if progress < _WARM_UP_SHARE:
        return max(progress / _WARM_UP_SHARE, 0.02)
    return 0.02 + 0.98 * 0.5 * (
        1 + math.cos(math.pi * (progress - _WARM_UP_SHARE) / (1 - _WARM_UP_SHARE))
    )


def save_atomically(state: object, file: Path) -> None:
    """Save with `torch.save`; the file is either the old one or the complete new one."""
    with atomic_write(file) as partial:
        torch.save(state, partial)


def train_stage(
    stage: TrainingStage[Batch], folder: Path, on_progress: ProgressCallback = no_progress
) -> None:
    """Train `stage.module` in place, resuming from the checkpoint in `folder` if there is one.

    `on_progress` gets each step, and the stage's name with its mean loss. Raises FloatingPointError
    when the loss is not finite; the last checkpoint stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / f"{stage.name}.pt"
    stage.module.to(DEVICE)
    optimizers = _build_optimizers(stage)
    torch.set_num_threads(1)
    first_step = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        stage.module.load_state_dict(state["module"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first_step = state["step"]
    if first_step >= stage.steps:
        return
    parameters = [p for p in stage.module.parameters() if p.requires_grad]

    def backward(batch: Batch, count: int) -> Tensor:
        batch = send_to_device(batch, DEVICE)
        # The threads would share a cache, and the first that ends empties it: how the gradients of
        # weights that are used twice are rounded would change from run to run.
        with torch.autocast(
            DEVICE.type, torch.bfloat16, enabled=FAST_BFLOAT16, cache_enabled=False
        ):
            loss = stage.loss(batch) / count
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    with ThreadPoolExecutor(NUM_THREADS) as workers:
        mean_loss = 0.0
        for step, batches in enumerate(_prefetch_batches(stage, first_step), first_step):
            factor = learning_rate_factor(step / stage.steps)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = stage.learning_rate * factor
                optimizer.zero_grad(set_to_none=True)
            losses = list(workers.map(backward, batches, [len(batches)] * len(batches)))
            loss = torch.stack(losses).sum().item()
            if not math.isfinite(loss):
                raise FloatingPointError(f"{stage.name}: loss {loss} at step {step}")
            torch.nn.utils.clip_grad_norm_(parameters, stage.max_grad_norm)
            for optimizer in optimizers:
                optimizer.step()
            mean_loss = loss if step == first_step else 0.98 * mean_loss + 0.02 * loss
            on_progress(step + 1, stage.steps, f"{stage.name}: loss {mean_loss:.4f}")
            if (step + 1) % _CHECKPOINT_EVERY == 0 or step + 1 == stage.steps:
                saved = {
                    "module": stage.module.state_dict(),
                    "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                    "step": step + 1,
                }
                save_atomically(saved, checkpoint)
