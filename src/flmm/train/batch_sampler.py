"""The pictures of each training step: the same after a restart, for any number of processes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class BatchSampler:
    """The steps of a run over ``num_pictures`` pictures, every picture once an epoch."""

    num_pictures: int
    batch_size: int
    epochs: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.num_pictures // self.batch_size)

    @property
    def num_steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    def batches_from(self, first_step: int) -> Iterator[tuple[int, list[int]]]:
        """Yield (step, the indices of its pictures), from step ``first_step`` on."""
        epoch, order = -1, [0]
        for step in range(first_step, self.num_steps):
            if step // self.steps_per_epoch != epoch:
                epoch = step // self.steps_per_epoch
                generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
                order = torch.randperm(self.num_pictures, generator=generator).tolist()
            begin = step % self.steps_per_epoch * self.batch_size
            yield step, order[begin : begin + self.batch_size]


def split_into_batches(
    indices: Sequence[int], batch_size: int, process_index: int, num_processes: int
) -> list[Sequence[int]]:
    """Return one process's share of ``indices``, in batches of at most ``batch_size``.

    All processes together have the same batches, whatever their number, and so the same results.
    """
    batches = [indices[first : first + batch_size] for first in range(0, len(indices), batch_size)]
    return batches[process_index::num_processes]
