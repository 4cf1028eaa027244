"""The drawn training scenes, cached on disk for all stages of the recipe."""

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from flmm.progress import ProgressCallback, no_progress
from flmm.stickers.draw import Drawing, DrawingStyle, draw
from flmm.stickers.scene import Scene, generate_scene

# Training scenes have the seeds from 0 upwards, far below these.
VALIDATION_SEED = 10_000_000
EVALUATION_SEED = 20_000_000

SCENE_VERSION = 2
"""The version of what a seed generates: cached drawings of other versions are not used."""

PICTURE_SIZE = 320
_SHARD_SIZE = 1000


@dataclass(frozen=True)
class SceneDataset:
    """Training scenes 0 to `count` - 1 with their drawings at `PICTURE_SIZE`, read lazily."""

    folder: Path
    count: int

    def scene(self, index: int) -> Scene:
        """Generate a training scene."""
        return generate_scene(index)

    def _read_array(self, name: str, index: int) -> NDArray[np.uint8]:
        shard = np.load(self.folder / _shard_name(name, index // _SHARD_SIZE), mmap_mode="r")
        return np.asarray(shard[index % _SHARD_SIZE])

    def picture(self, index: int) -> NDArray[np.uint8]:
        """Read a scene's picture, (320, 320, 3) uint8."""
        return self._read_array("pictures", index)

    def drawing(self, index: int) -> Drawing:
        """Read a scene's drawing."""
        return Drawing(self.picture(index), self._read_array("owners", index), self.scene(index))


def training_style(index: int) -> DrawingStyle:
    """Return how a training scene is drawn: 70 % are augmented, the others as published."""
    return DrawingStyle(augmentation_seed=index if index % 10 < 7 else None)


def _shard_name(name: str, shard: int) -> str:
    return f"{name}-{SCENE_VERSION}-{shard:04d}.npy"


def _draw_shard(folder: Path, shard: int, scenes: int) -> None:
    size = PICTURE_SIZE
    shapes = {"pictures": (scenes, size, size, 3), "owners": (scenes, size, size)}
    files = {name: folder / _shard_name(name, shard) for name in shapes}
    if all(
        file.exists() and len(np.load(file, mmap_mode="r")) >= scenes for file in files.values()
    ):
        return
    partial = {name: folder / f".{file.name}.partial" for name, file in files.items()}
    arrays = {
        name: open_memmap(partial[name], mode="w+", dtype=np.uint8, shape=shape)
        for name, shape in shapes.items()
    }
    for offset in range(scenes):
        index = shard * _SHARD_SIZE + offset
        drawing = draw(generate_scene(index), size, training_style(index))
        arrays["pictures"][offset] = drawing.picture
        arrays["owners"][offset] = drawing.region_ids
    for name, array in arrays.items():
        array.flush()
        os.replace(partial[name], files[name])


def build_dataset(
    folder: Path,
    count: int,
    workers: int | None = None,
    on_progress: ProgressCallback = no_progress,
) -> SceneDataset:
    """Draw those of the first `count` scenes that are not on disk yet.

    `workers` is the number of processes; None for one per core.
    """
    folder.mkdir(parents=True, exist_ok=True)
    firsts = range(0, count, _SHARD_SIZE)
    sizes = [min(_SHARD_SIZE, count - first) for first in firsts]
    with ProcessPoolExecutor(workers) as pool:
        drawn = pool.map(_draw_shard, [folder] * len(firsts), range(len(firsts)), sizes)
        for first, size, _ in zip(firsts, sizes, drawn, strict=True):
            on_progress(first + size, count, "scenes")
    return SceneDataset(folder, count)
