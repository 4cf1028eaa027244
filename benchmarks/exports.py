"""Measure how many masks of a megapixel exports write in a second of CPU time, and their memory.

    python benchmarks/exports.py

The masks have curved edges, several parts and holes. Needs no model.
"""

import json
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flmm.answers.answer import Answer
from flmm.answers.phrase import Phrase
from flmm.answers.run_lengths import encode_rle
from flmm.exports.pictures import LabelledPictures
from flmm.exports.results import BatchResults
from flmm.exports.run import EXPORTERS, export_pictures
from flmm.types import Size

NUM_MASKS = 100
MEGAPIXEL: Size = (1000, 1000)
LARGE: Size = (4000, 6000)
NUM_LARGE = 8


def draw_mask(size: Size, seed: int) -> NDArray[np.bool_]:
    """Return a mask with curved edges that covers a third of the picture."""
    rows, columns = np.ogrid[: size[0], : size[1]]
    rows, columns = rows / size[0], columns / size[1]
    random = np.random.default_rng(seed)
    waves = sum(
        np.sin(2 * np.pi * (a * rows + b * columns) + c)
        for a, b, c in random.uniform(-3, 3, (4, 3))
    )
    inside: NDArray[np.bool_] = waves > 0.7
    return inside


def build_answer(size: Size, count: int) -> Answer:
    """Return an answer with so many masks."""
    phrases = []
    for seed in range(count):
        mask = draw_mask(size, seed)
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        phrases.append(Phrase(f"thing {seed % 7}", 0, 7, (0,), encode_rle(mask), box, 0.5))
    return Answer("it", "head", "lmm", size, tuple(phrases), {}, Image.new("RGB", (1, 1)))


def measure(name: str, work: Callable[[], object]) -> None:
    start = time.process_time()
    work()
    print(f"{name:28} {NUM_MASKS / (time.process_time() - start):8.0f} masks a second")


def main() -> None:
    answer = build_answer(MEGAPIXEL, NUM_MASKS)
    measure("phrase.mask", lambda: [phrase.mask for phrase in answer.phrases])
    measure("phrase.polygons()", lambda: [phrase.polygons() for phrase in answer.phrases])
    measure("to_coco()", answer.to_coco)
    measure('to_coco("polygon")', lambda: answer.to_coco(segmentation="polygon"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measure("save_masks()", lambda: answer.save_masks(folder / "masks"))
        result = {
            "id": "a", "version": "0", "task": {"image": "a.png"}, "answer": answer.to_dict(),
        }  # fmt: skip
        (folder / "results.jsonl").write_text(f"{json.dumps(result)}\n")
        for export_format in EXPORTERS:
            measure(
                f"flmm export --to {export_format}",
                lambda export_format=export_format: export_pictures(  # type: ignore[misc]
                    LabelledPictures(BatchResults(folder / "results.jsonl")),
                    export_format,
                    folder / f"out-{export_format}",
                ),
            )
    tracemalloc.start()
    large = build_answer(LARGE, NUM_LARGE)
    kept, _ = tracemalloc.get_traced_memory()
    print(f"{NUM_LARGE} masks of {LARGE[1]} x {LARGE[0]} pixels keep {kept / 1e6:.1f} MB")
    tracemalloc.reset_peak()
    large.to_coco(segmentation="polygon")
    _, peak = tracemalloc.get_traced_memory()
    print(f'to_coco("polygon") needs {peak / 1e6:.0f} MB at most')


if __name__ == "__main__":
    main()
