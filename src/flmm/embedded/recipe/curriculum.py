"""Which scenes a step learns from: few things a picture at first, in the end all scenes."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from flmm.stickers.dataset import SceneDataset


@dataclass(frozen=True)
class Curriculum:
    """Scene numbers by how many things they hold."""

    dataset: SceneDataset
    seed: int
    steps: int
    stages: tuple[tuple[float, int], ...]
    """(share of the steps until which it lasts, most things a scene), one after the other."""

    def __post_init__(self) -> None:
        # Now, and not once in each process that reads.
        self._scene_statistics  # noqa: B018

    @cached_property
    def _scene_statistics(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """How many things each scene holds, and whether one of them bears a number."""
        scenes = [self.dataset.scene(index) for index in range(self.dataset.count)]
        counts = [len(scene.things) for scene in scenes]
        tags = [any(thing.tag_number is not None for thing in scene.things) for scene in scenes]
        return np.array(counts), np.array(tags)

    @cached_property
    def _scenes_by_max_things(self) -> dict[int, NDArray[np.int64]]:
        counts, _ = self._scene_statistics
        return {most: np.flatnonzero(counts <= most) for _, most in self.stages}

    @cached_property
    def tagged_scenes(self) -> NDArray[np.int64]:
        """The scenes in which something bears a number."""
        _, tags = self._scene_statistics
        return np.flatnonzero(tags)

    def sample(self, step: int, count: int) -> tuple[list[int], np.random.Generator]:
        """The scene numbers of a step, and the step's own randomness."""
        random = np.random.default_rng((self.seed, step))
        most = next(most for until, most in self.stages if step < until * self.steps or until == 1)
        return [int(i) for i in random.choice(self._scenes_by_max_things[most], count)], random
