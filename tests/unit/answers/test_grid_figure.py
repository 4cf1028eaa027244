"""The grid of image tokens over a picture, its padding and what is cropped away."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flmm.answers.grid_figure import PANEL_SIDE, GridPanel, draw_grids
from flmm.types import ImageGeometry

BLUE = (0, 0, 255)


def draw(geometry: ImageGeometry) -> NDArray[np.uint8]:
    height, width = geometry.picture
    picture = Image.new("RGB", (width, height), BLUE)
    return np.asarray(draw_grids([(picture, [GridPanel("a picture", geometry, (0, 3, 4, 7))])]))


def share_of_blue(sheet: NDArray[np.uint8]) -> float:
    """Of the panel's area; pixels under translucent lines and marks are not counted."""
    return float((sheet == BLUE).all(axis=-1).sum() / PANEL_SIDE**2)


def test_a_picture_that_fills_the_canvas_is_shown_whole() -> None:
    sheet = draw(ImageGeometry((40, 40), (40, 40), (0, 0), (40, 40), (2, 4)))
    # Four of the eight cells are corners, and marked.
    assert 0.45 < share_of_blue(sheet) < 0.5


def test_padding_is_hatched() -> None:
    sheet = draw(ImageGeometry((20, 40), (20, 40), (0, 0), (40, 40), (4, 4)))
    # Half of the canvas shows the picture, without the two marked corners.
    assert 0.3 < share_of_blue(sheet) < 0.5 - 2 / 16
    colours, counts = np.unique(sheet.reshape(-1, 3), axis=0, return_counts=True)
    greys = counts[(np.ptp(colours, axis=1) <= 6) & (colours[:, 0] < 230) & (colours[:, 0] > 150)]
    assert greys.sum() > 0.3 * PANEL_SIDE**2


def test_what_is_cropped_away_is_pale() -> None:
    sheet = draw(ImageGeometry((40, 80), (40, 80), (0, -20), (40, 40), (4, 4)))
    # The picture is as wide as the panel, and a quarter of the panel's area is seen by the LMM.
    assert 0.12 < share_of_blue(sheet) < 0.25
    pale = (sheet[..., 2] > 240) & (sheet[..., 0] > 150) & (sheet[..., 0] < 200)
    assert 0.2 < pale.sum() / PANEL_SIDE**2 < 0.26


def test_every_grid_of_every_picture_is_a_panel() -> None:
    geometry = ImageGeometry((40, 40), (40, 40), (0, 0), (40, 40), (2, 4))
    panel = GridPanel("a picture", geometry, (0, 3, 4, 7))
    picture = Image.new("RGB", (40, 40))
    one, two = draw_grids([(picture, [panel])]), draw_grids([(picture, [panel] * 2)] * 3)
    assert two.size == (2 * one.width, 3 * one.height)
