"""Which scenes a step learns from: few things a picture at first, in the end all scenes."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from flmm.stickers.dataset import World


@dataclass(frozen=True)
class Curriculum:
    """Scene numbers by how many things they hold."""

    world: World
    seed: int
    steps: int
    stages: tuple[tuple[float, int], ...]
    """(share of the steps until which it lasts, most things a scene), one after the other."""

    def __post_init__(self) -> None:
        # Now, and not once in each process that reads.
        self._scenes  # noqa: B018

    @cached_property
    def _scenes(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """How many things each scene holds, and whether one of them bears a number."""
        scenes = [self.world.scene(index) for index in range(self.world.count)]
        counts = [len(scene.things) for scene in scenes]
        tags = [any(thing.number is not None for thing in scene.things) for scene in scenes]
        return np.array(counts), np.array(tags)

    @cached_property
    def _by_count(self) -> dict[int, NDArray[np.int64]]:
        counts, _ = self._scenes
        return {most: np.flatnonzero(counts <= most) for _, most in self.stages}

    @cached_property
    def tagged(self) -> NDArray[np.int64]:
        """The scenes in which something bears a number."""
        _, tags = self._scenes
        return np.flatnonzero(tags)

    def draw(self, step: int, count: int) -> tuple[list[int], np.random.Generator]:
        """The scene numbers of a step, and the step's own randomness."""
        random = np.random.default_rng((self.seed, step))
        most = next(most for until, most in self.stages if step < until * self.steps or until == 1)
        return [int(i) for i in random.choice(self._by_count[most], count)], random
