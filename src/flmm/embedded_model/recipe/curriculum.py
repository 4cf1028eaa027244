"""The scenes of each training step: with few things at first, in the end all scenes."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from flmm.stickers.dataset import SceneDataset


@dataclass(frozen=True)
class Curriculum:
    """Samples the scenes of each step, with a growing number of things."""

    dataset: SceneDataset
    seed: int
    steps: int
    stages: tuple[tuple[float, int], ...]
    """(share of all steps at which it ends, maximum number of things in a scene) of each stage."""

    def __post_init__(self) -> None:
        # Computed before the worker processes start, so that they share it.
        self._scene_statistics  # noqa: B018

    @cached_property
    def _scene_statistics(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The number of things of each scene, and whether any of them has a tag."""
        scenes = [self.dataset.scene(index) for index in range(self.dataset.count)]
        counts = [len(scene.things) for scene in scenes]
        tagged = [any(thing.tag_number is not None for thing in scene.things) for scene in scenes]
        return np.array(counts), np.array(tagged)

    @cached_property
    def _scenes_by_max_things(self) -> dict[int, NDArray[np.int64]]:
        counts, _ = self._scene_statistics
        return {maximum: np.flatnonzero(counts <= maximum) for _, maximum in self.stages}

    @cached_property
    def tagged_scenes(self) -> NDArray[np.int64]:
        """The indices of the scenes that hold a tag."""
        _, tagged = self._scene_statistics
        return np.flatnonzero(tagged)

    def sample(self, step: int, count: int) -> tuple[list[int], np.random.Generator]:
        """Return `count` scene indices for a step, and the step's random generator."""
        random = np.random.default_rng((self.seed, step))
        maximum = next(
            maximum for end, maximum in self.stages if step < end * self.steps or end == 1
        )
        return [int(i) for i in random.choice(self._scenes_by_max_things[maximum], count)], random
