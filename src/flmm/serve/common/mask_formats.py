"""Masks in the formats that clients may ask for.

Letters: ``H W`` picture size.
"""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flmm.answers.answer import Phrase, encode_rle
from flmm.serve.common.request_models import MaskFormat
from flmm.serve.common.response_models import PhraseReply, PngMask, PolygonMask, RunLengthMask

Point = tuple[int, int]
"""(x, y)."""


def build_phrase_reply(phrase: Phrase, picture_index: int, mask_format: MaskFormat) -> PhraseReply:
    """Return a phrase's reply; ``picture_index`` counts the conversation's pictures from 0."""
    return PhraseReply(
        text=phrase.text,
        start=phrase.start,
        end=phrase.end,
        score=round(phrase.score, 4),
        box=phrase.box,
        area=phrase.area,
        mask=format_mask(phrase.mask, mask_format),
        picture=picture_index,
    )


def format_mask(
    mask: NDArray[np.bool_], mask_format: MaskFormat
) -> RunLengthMask | PolygonMask | PngMask:
    """Return an (H, W) bool mask in that format."""
    height, width = mask.shape
    if mask_format == "polygon":
        return PolygonMask(size=(height, width), polygons=mask_to_polygons(mask))
    if mask_format == "png":
        return PngMask(size=(height, width), png=encode_png_url(Image.fromarray(mask)))
    return RunLengthMask(size=(height, width), counts=encode_rle(mask)["counts"])


def encode_png_url(image: Image.Image) -> str:
    """Return a picture as a PNG data URL."""
    content = io.BytesIO()
    image.save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode('ascii')}"


def mask_to_polygons(mask: NDArray[np.bool_]) -> list[list[int]]:
    """Return the closed rings of pixel edges around an (H, W) bool mask.

    Each is [x0, y0, x1, y1, …], corners only. A point is in the mask exactly if it is inside an odd
    number of rings, so a hole is a ring in a ring.
    """
    next_points = _edge_graph(mask)
    rings = []
    while next_points:
        first = next(iter(next_points))
        ring = [first]
        while (point := _take_next_point(next_points, ring)) != first:
            ring.append(point)
        rings.append([value for corner in _drop_collinear(ring) for value in corner])
    return rings


def _edge_graph(mask: NDArray[np.bool_]) -> dict[Point, list[Point]]:
    """Map each point of the border to the next ones; the mask is always on the right."""
    padded = np.pad(mask, 1)
    next_points: dict[Point, list[Point]] = {}
    down = padded[1:, 1:-1].astype(np.int8) - padded[:-1, 1:-1]
    across = padded[1:-1, 1:].astype(np.int8) - padded[1:-1, :-1]
    for (y, x), step in _nonzero_steps(down):
        start, end = ((x, y), (x + 1, y)) if step > 0 else ((x + 1, y), (x, y))
        next_points.setdefault(start, []).append(end)
    for (y, x), step in _nonzero_steps(across):
        start, end = ((x, y + 1), (x, y)) if step > 0 else ((x, y), (x, y + 1))
        next_points.setdefault(start, []).append(end)
    return next_points


def _nonzero_steps(steps: NDArray[np.int8]) -> list[tuple[tuple[int, int], int]]:
    rows, columns = np.nonzero(steps)
    positions = zip(rows.tolist(), columns.tolist(), strict=True)
    return list(zip(positions, steps[rows, columns].tolist(), strict=True))


def _take_next_point(next_points: dict[Point, list[Point]], ring: list[Point]) -> Point:
    """Remove and return the point after the ring's last one.

    Where two pixels touch only by a corner, the ring turns to stay with its own pixel.
    """
    last = ring[-1]
    candidates = next_points[last]
    point = candidates[0]
    if len(candidates) > 1:
        before = ring[-2] if len(ring) > 1 else last
        turn = (before[1] - last[1], last[0] - before[0])
        point = next((p for p in candidates if (p[0] - last[0], p[1] - last[1]) == turn), point)
    candidates.remove(point)
    if not candidates:
        del next_points[last]
    return point


def _drop_collinear(ring: list[Point]) -> list[Point]:
    """Return the ring without points inside straight lines."""
    return [
        point
        for before, point, after in zip(
            [ring[-1], *ring[:-1]], ring, [*ring[1:], ring[0]], strict=True
        )
        if not (before[0] == point[0] == after[0] or before[1] == point[1] == after[1])
    ]
