"""The heat maps of layers and heads, at the sizes of LMMs that people have."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flmm.report.overlaps import Interval, Score
from flmm.report.where.figures import draw_heatmaps
from flmm.report.where.measurement import Panel, WhereResults


@pytest.mark.parametrize(("layers", "heads"), [(6, 4), (30, 9), (32, 32)])
def test_nothing_is_cut_off(layers: int, heads: int, tmp_path: Path) -> None:
    interval = Interval(40.0, 38.0, 42.0)
    score = Score(interval, interval, 1234)
    panels = tuple(
        Panel(
            kind, part, everything=score, mean=score, layers=(score,) * layers,
            heads=((score,) * heads,) * layers, best=(layers // 2, 0),
        )
        for kind in ("caption", "expression")
        for part in ("things", "stuff")
    )  # fmt: skip
    file = tmp_path / "where.png"
    draw_heatmaps(WhereResults(200, 60, layers, (1 / layers,) * layers, panels), file)
    pixels = np.asarray(Image.open(file).convert("L"))
    borders = [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
    assert min(border.min() for border in borders) > 250
    assert pixels.min() < 100
