"""Which scenes a step learns from: few things a picture at first, in the end all scenes."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from flmm.stickers.world import World


@dataclass(frozen=True)
class Curriculum:
    """Scene numbers by how many things they hold."""

    world: World
    seed: int
    steps: int
    stages: tuple[tuple[float, int], ...]
    """(share of the steps until which it lasts, most things a scene), one after the other."""

    @cached_property
    def _by_count(self) -> dict[int, np.ndarray[tuple[int, ...], np.dtype[np.int64]]]:
        counts = np.array([len(self.world.scene(i).things) for i in range(self.world.count)])
        return {most: np.flatnonzero(counts <= most) for _, most in self.stages}

    @cached_property
    def tagged(self) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        """The scenes in which something bears a number."""
        numbered = [
            any(thing.number is not None for thing in self.world.scene(i).things)
            for i in range(self.world.count)
        ]
        return np.flatnonzero(numbered)

    def draw(self, step: int, count: int) -> tuple[list[int], np.random.Generator]:
        """The scene numbers of a step, and the step's own randomness."""
        random = np.random.default_rng((self.seed, step))
        most = next(most for until, most in self.stages if step < until * self.steps or until == 1)
        return [int(i) for i in random.choice(self._by_count[most], count)], random
