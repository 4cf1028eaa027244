"""Memory that the phrases of 24 megapixels need; benchmarks/picture_memory.py measures more."""

from pathlib import Path

import pytest
from picture_memory import PICTURE, measure_steps
from PIL import Image

from flmm.bench.memory import can_measure_peak, run_in_new_process

LIMIT = 300_000_000
"""Bytes beyond the picture."""


@pytest.mark.skipif(not can_measure_peak("cpu"), reason="peaks are read from Linux's /proc")
def test_phrases_of_a_large_picture_take_less_than_300_megabytes(tmp_path: Path) -> None:
    file = tmp_path / "large.jpg"
    with Image.open(PICTURE) as small:
        small.convert("RGB").resize((6000, 4000)).save(file)
    steps = run_in_new_process(measure_steps, file, 2)
    assert steps.peaks.keys() == {"segment", "held", "masks", "to_coco", "overlay"}
    assert max(steps.peaks.values()) < LIMIT, steps
