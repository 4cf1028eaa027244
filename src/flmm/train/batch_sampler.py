"""Which pictures each step learns from: the same after a restart, whatever the processes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Plan:
    """All steps of a run over ``pictures`` pictures, every picture once an epoch."""

    pictures: int
    batch_size: int
    epochs: int
    seed: int

    @property
    def steps_an_epoch(self) -> int:
        return -(-self.pictures // self.batch_size)

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_an_epoch

    def steps_from(self, first: int) -> Iterator[tuple[int, list[int]]]:
        """(step, the numbers of its pictures) from step ``first`` on."""
        epoch, order = -1, [0]
        for step in range(first, self.steps):
            if step // self.steps_an_epoch != epoch:
                epoch = step // self.steps_an_epoch
                generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
                order = torch.randperm(self.pictures, generator=generator).tolist()
            begin = step % self.steps_an_epoch * self.batch_size
            yield step, order[begin : begin + self.batch_size]


def batches_of(
    numbers: Sequence[int], size: int, process: int, processes: int
) -> list[Sequence[int]]:
    """A process's share of some pictures, in batches of at most ``size``.

    The batches are the same for any number of processes, and with them what is computed.
    """
    batches = [numbers[first : first + size] for first in range(0, len(numbers), size)]
    return batches[process::processes]
