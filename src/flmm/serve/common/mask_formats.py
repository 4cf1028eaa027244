"""A mask in the form that a client wants.

Letters: ``H W`` picture size.
"""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flmm.answers.answer import Phrase, encode_rle
from flmm.serve.common.replies import PhraseReply, PngMask, PolygonMask, RunLengthMask
from flmm.serve.common.requests import MaskFormat

Point = tuple[int, int]
"""(x, y)."""


def build_phrase_reply(phrase: Phrase, picture_index: int, mask_format: MaskFormat) -> PhraseReply:
    """A phrase as clients are told of it; ``picture``: which of the conversation's."""
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
    """An (H, W) bool mask."""
    height, width = mask.shape
    if mask_format == "polygon":
        return PolygonMask(size=(height, width), polygons=mask_to_polygons(mask))
    if mask_format == "png":
        return PngMask(size=(height, width), png=encode_png_url(Image.fromarray(mask)))
    return RunLengthMask(size=(height, width), counts=encode_rle(mask)["counts"])


def encode_png_url(image: Image.Image) -> str:
    """A picture as a data URL."""
    content = io.BytesIO()
    image.save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode('ascii')}"


def mask_to_polygons(mask: NDArray[np.bool_]) -> list[list[int]]:
    """The rings of pixel edges that part an (H, W) bool mask from the rest.

    Each is [x0, y0, x1, y1, …], with corners only, and closed. Inside of an odd number of rings is
    the mask, exactly; so a hole is a ring in a ring.
    """
    onward = _edge_graph(mask)
    rings = []
    while onward:
        first = next(iter(onward))
        ring = [first]
        while (point := _take_next_point(onward, ring)) != first:
            ring.append(point)
        rings.append([value for corner in _drop_collinear(ring) for value in corner])
    return rings


def _edge_graph(mask: NDArray[np.bool_]) -> dict[Point, list[Point]]:
    """From each point of the border to the next ones, the mask always on the right."""
    padded = np.pad(mask, 1)
    onward: dict[Point, list[Point]] = {}
    down = padded[1:, 1:-1].astype(np.int8) - padded[:-1, 1:-1]
    across = padded[1:-1, 1:].astype(np.int8) - padded[1:-1, :-1]
    for (y, x), step in _nonzero_steps(down):
        start, end = ((x, y), (x + 1, y)) if step > 0 else ((x + 1, y), (x, y))
        onward.setdefault(start, []).append(end)
    for (y, x), step in _nonzero_steps(across):
        start, end = ((x, y + 1), (x, y)) if step > 0 else ((x, y), (x, y + 1))
        onward.setdefault(start, []).append(end)
    return onward


def _nonzero_steps(steps: NDArray[np.int8]) -> list[tuple[tuple[int, int], int]]:
    rows, columns = np.nonzero(steps)
    places = zip(rows.tolist(), columns.tolist(), strict=True)
    return list(zip(places, steps[rows, columns].tolist(), strict=True))


def _take_next_point(next_points: dict[Point, list[Point]], ring: list[Point]) -> Point:
    """The next point; where two pixels touch by a corner, the ring stays with its own."""
    here = ring[-1]
    choices = next_points[here]
    chosen = choices[0]
    if len(choices) > 1:
        before = ring[-2] if len(ring) > 1 else here
        turn = (before[1] - here[1], here[0] - before[0])
        chosen = next((p for p in choices if (p[0] - here[0], p[1] - here[1]) == turn), chosen)
    choices.remove(chosen)
    if not choices:
        del next_points[here]
    return chosen


def _drop_collinear(ring: list[Point]) -> list[Point]:
    """Without the points on straight lines."""
    return [
        point
        for before, point, after in zip(
            [ring[-1], *ring[:-1]], ring, [*ring[1:], ring[0]], strict=True
        )
        if not (before[0] == point[0] == after[0] or before[1] == point[1] == after[1])
    ]
