"""The picture with every phrase's mask on it, and a legend of their colours and numbers.

Letters: ``H W`` picture size.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from flmm.answers.legend import LegendPhrase, LegendStyle, draw_badge, draw_legend
from flmm.answers.palette import Colour, phrase_colour
from flmm.answers.resizing import resize_nonzero

MIN_LONGER_SIDE = 720
"""Pictures whose longer side is shorter are enlarged to it, so that their legend is legible."""
MAX_OVERLAY_PIXELS = 2_500_000
"""The overlay shows larger pictures reduced to this; the masks themselves keep their size."""
LEGEND_WIDTH_RANGE = (720, 1440)
"""Least and most, in pixels."""
TALL_ASPECT_RATIO = 1.5
"""From this ratio of height to width on, the legend stands beside the picture."""

_FILL_OPACITY = 0.4
_HALO_OPACITY = 0.85


class MaskedPhrase(LegendPhrase, Protocol):
    """A phrase of the text and its mask in the picture."""

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(H, W) bool; may be made at each access."""

    @property
    def area(self) -> int:
        """Pixels in the mask."""


def draw_overlay(picture: Image.Image, text: str, phrases: Sequence[MaskedPhrase]) -> Image.Image:
    """Draw the masks over the picture, and the answer with its phrases marked beside it.

    Args:
        picture: (H, W), any mode.
        text: the answer, any Unicode; characters that the font lacks show as boxes.
        phrases: with ``start`` and ``end`` in code points of ``text``; the i-th has the
            i-th colour and number in the picture and in the legend.

    Returns:
        A new RGB image: the picture, enlarged when it is small, above or left of its legend.
    """
    shown = resize_for_viewing(picture)
    beside = shown.height > TALL_ASPECT_RATIO * shown.width
    least, most = LEGEND_WIDTH_RANGE
    style = LegendStyle.for_width(least if beside else min(max(shown.width, least), most))
    shown = draw_masks(shown, phrases, style)
    shares = compute_shares(picture, phrases)
    legend = draw_legend(text, phrases, shares, style)
    if beside:
        size = (shown.width + legend.width, max(shown.height, legend.height))
        legend_at = (shown.width, 0)
    else:
        size = (max(shown.width, legend.width), shown.height + legend.height)
        legend_at = (0, shown.height)
    sheet = Image.new("RGB", size, style.background)
    sheet.paste(shown, (0, 0))
    sheet.paste(legend, legend_at)
    return sheet


def compute_shares(picture: Image.Image, phrases: Sequence[MaskedPhrase]) -> list[float]:
    """Return the share of the picture that is in each mask, in 0..1."""
    return [phrase.area / (picture.width * picture.height) for phrase in phrases]


def resize_for_viewing(picture: Image.Image) -> Image.Image:
    """Return the picture as RGB, enlarged or reduced to a legible size."""
    pixels = picture.width * picture.height
    if pixels > MAX_OVERLAY_PIXELS:
        scale = (MAX_OVERLAY_PIXELS / pixels) ** 0.5
    else:
        scale = max(1.0, MIN_LONGER_SIDE / max(picture.size))
    size = (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1))
    rgb = picture if picture.mode == "RGB" else picture.convert("RGB")
    return rgb.resize(size, Image.Resampling.LANCZOS)


def draw_masks(
    picture: Image.Image,
    phrases: Sequence[MaskedPhrase],
    style: LegendStyle,
    numbers: Sequence[int] | None = None,
) -> Image.Image:
    """Draw the masks over the picture, large ones first so that none hides a smaller one.

    ``numbers``: of the phrases in the legend, from 0; None for their order.
    """
    numbers = range(len(phrases)) if numbers is None else numbers
    canvas = np.array(picture, dtype=np.float32)
    line_width = max(min(max(picture.size) / 320, min(picture.size) / 8), 1.0)
    order = sorted(range(len(phrases)), key=lambda index: -phrases[index].area)
    small_masks: dict[int, NDArray[np.float32]] = {}
    for index in order:
        mask = phrases[index].mask
        draw_mask(canvas, mask, phrase_colour(numbers[index]), line_width)
        small_masks[index] = _shrink_mask(mask, picture.size)
    image = Image.fromarray((canvas + 0.5).astype(np.uint8))
    badge_centres: list[tuple[float, float]] = []
    for index in reversed(order):
        centre = _find_badge_centre(
            small_masks[index], picture.size, style.badge_radius, badge_centres
        )
        if centre is not None and min(picture.size) > 2 * style.badge_radius:
            draw_badge(image, centre, numbers[index], style)
            badge_centres.append(centre)
    return image


def draw_mask(
    canvas: NDArray[np.float32], mask: NDArray[np.bool_], colour: Colour, line_width: float
) -> None:
    """Draw one mask over the (H', W', 3) canvas: a translucent fill and a smooth contour.

    The (H, W) mask is resized to the canvas; ``line_width`` is the contour's, in canvas pixels.

    Blurring turns the mask into a ramp across its edge; its inverse gives each pixel's distance
    to the edge in pixels, from which fill and lines are drawn anti-aliased.
    """
    height, width = canvas.shape[:2]
    shaded = mask.view(np.uint8) * 255
    smooth = resize_nonzero(shaded, (width, height), Image.Resampling.BICUBIC)
    shades = smooth.point([0] * 128 + [255] * 128)
    box = shades.getbbox()
    if box is None:
        return
    margin = int(4 * line_width) + 4
    left, top = max(box[0] - margin, 0), max(box[1] - margin, 0)
    right, bottom = min(box[2] + margin, width), min(box[3] + margin, height)
    sigma = max(line_width * 0.6, 0.5)
    blurred = shades.crop((left, top, right, bottom)).filter(ImageFilter.GaussianBlur(sigma))
    ramp = np.clip(np.asarray(blurred, dtype=np.float32) / 255, 0.5 / 255, 1 - 0.5 / 255)
    # The logistic function is within 1 % of the normal distribution's at this scale.
    inside = sigma / 1.702 * np.log(ramp / (1 - ramp))
    part = canvas[top:bottom, left:right]
    _blend(part, colour, _FILL_OPACITY * np.clip(inside + 0.5, 0, 1))
    distance = np.abs(inside)
    near_edge = distance < 0.9 * line_width + 0.5
    distance, pixels = distance[near_edge], part[near_edge]
    _blend(
        pixels, (255, 255, 255), _HALO_OPACITY * np.clip(0.9 * line_width + 0.5 - distance, 0, 1)
    )
    _blend(pixels, colour, np.clip(0.5 * line_width + 0.5 - distance, 0, 1))
    part[near_edge] = pixels


def _blend(pixels: NDArray[np.float32], colour: Colour, opacity: NDArray[np.floating]) -> None:
    """Move (..., 3) pixels towards a colour, as far as (...) opacities say."""
    pixels += (np.asarray(colour, dtype=np.float32) - pixels) * opacity[..., None]


def _shrink_mask(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.float32]:
    """Return the share of each cell in the mask, of at most 160 cells along the longer side.

    ``size`` is the drawing's (width, height).
    """
    scale = _badge_scale(size)
    small = (max(round(size[0] * scale), 1), max(round(size[1] * scale), 1))
    # In bytes a pixel is not rounded to 0 in the width of a cell, but it would be in its area.
    narrow = resize_nonzero(mask.view(np.uint8) * 255, (small[0], len(mask)), Image.Resampling.BOX)
    shares = np.asarray(narrow, dtype=np.float32) / 255
    return np.asarray(Image.fromarray(shares).resize(small, Image.Resampling.BOX))


def _badge_scale(size: tuple[int, int]) -> float:
    return min(1.0, 160 / max(size))


def _find_badge_centre(
    share: NDArray[np.float32],
    size: tuple[int, int],
    radius: float,
    occupied: Sequence[tuple[float, float]],
) -> tuple[float, float] | None:
    """Return the badge's (x, y) centre in the (width, height) picture; None for an empty mask.

    It is deep inside a large mask, and on the upper edge of a small one, not to hide it. The mask
    is given shrunk, as shares of cells.
    """
    if not share.any():
        return None
    scale = _badge_scale(size)
    depth = _chessboard_distance(share >= share.max() / 2)
    ys, xs = np.mgrid[0 : share.shape[0], 0 : share.shape[1]]
    free = np.ones_like(depth, dtype=bool)
    for x, y in occupied:
        free &= np.hypot((xs + 0.5) / scale - x, (ys + 0.5) / scale - y) > 2.4 * radius
    inside = depth > 0
    if (depth * free).max() / scale >= 2.5 * radius:
        row, column = divmod(int((depth * free).argmax()), share.shape[1])
    else:
        upper = inside & free if (inside & free).any() else inside
        row = int(upper.any(axis=1).argmax())
        columns = np.flatnonzero(upper[row]).tolist()
        column = columns[len(columns) // 2]
    x, y = (column + 0.5) / scale, (row + 0.5) / scale
    edge = radius + 3
    return min(max(x, edge), size[0] - edge), min(max(y, edge), size[1] - edge)


def _chessboard_distance(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return each cell's chessboard distance to the nearest cell outside the mask."""
    depth = np.zeros(mask.shape, dtype=np.int64)
    eroded = np.pad(mask, 1)
    while eroded.any():
        depth += eroded[1:-1, 1:-1]
        rows = eroded[:-2] & eroded[1:-1] & eroded[2:]
        eroded = np.pad(rows[:, :-2] & rows[:, 1:-1] & rows[:, 2:], 1)
    return depth
