"""A mask in the form that a client wants.

Letters: ``H W`` picture size.
"""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flmm.answers.answer import Phrase, run_lengths
from flmm.serve.common.replies import PhraseReply, PngMask, PolygonMask, RunLengthMask
from flmm.serve.common.requests import MaskFormat

Point = tuple[int, int]
"""(x, y)."""


def phrase_reply(phrase: Phrase, picture: int, kind: MaskFormat) -> PhraseReply:
    """A phrase as clients are told of it; ``picture``: which of the conversation's."""
    return PhraseReply(
        text=phrase.text,
        start=phrase.start,
        end=phrase.end,
        score=round(phrase.score, 4),
        box=phrase.box,
        area=phrase.area,
        mask=formatted(phrase.mask, kind),
        picture=picture,
    )


def formatted(mask: NDArray[np.bool_], kind: MaskFormat) -> RunLengthMask | PolygonMask | PngMask:
    """An (H, W) bool mask."""
    height, width = mask.shape
    if kind == "polygon":
        return PolygonMask(size=(height, width), polygons=outlines(mask))
    if kind == "png":
        return PngMask(size=(height, width), png=png_url(Image.fromarray(mask)))
    return RunLengthMask(size=(height, width), counts=run_lengths(mask)["counts"])


def png_url(image: Image.Image) -> str:
    """A picture as a data URL."""
    content = io.BytesIO()
    image.save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode('ascii')}"


def outlines(mask: NDArray[np.bool_]) -> list[list[int]]:
    """The rings of pixel edges that part an (H, W) bool mask from the rest.

    Each is [x0, y0, x1, y1, …], with corners only, and closed. Inside of an odd number of rings is
    the mask, exactly; so a hole is a ring in a ring.
    """
    onward = _edges(mask)
    rings = []
    while onward:
        first = next(iter(onward))
        ring = [first]
        while (point := _take(onward, ring)) != first:
            ring.append(point)
        rings.append([value for corner in _corners(ring) for value in corner])
    return rings


def _edges(mask: NDArray[np.bool_]) -> dict[Point, list[Point]]:
    """From each point of the border to the next ones, the mask always on the right."""
    padded = np.pad(mask, 1)
    onward: dict[Point, list[Point]] = {}
    down = padded[1:, 1:-1].astype(np.int8) - padded[:-1, 1:-1]
    across = padded[1:-1, 1:].astype(np.int8) - padded[1:-1, :-1]
    for (y, x), step in _where(down):
        start, end = ((x, y), (x + 1, y)) if step > 0 else ((x + 1, y), (x, y))
        onward.setdefault(start, []).append(end)
    for (y, x), step in _where(across):
        start, end = ((x, y + 1), (x, y)) if step > 0 else ((x, y), (x, y + 1))
        onward.setdefault(start, []).append(end)
    return onward


def _where(steps: NDArray[np.int8]) -> list[tuple[tuple[int, int], int]]:
    rows, columns = np.nonzero(steps)
    places = zip(rows.tolist(), columns.tolist(), strict=True)
    return list(zip(places, steps[rows, columns].tolist(), strict=True))


def _take(onward: dict[Point, list[Point]], ring: list[Point]) -> Point:
    """The next point; where two pixels touch by a corner, the ring stays with its own."""
    here = ring[-1]
    choices = onward[here]
    chosen = choices[0]
    if len(choices) > 1:
        before = ring[-2] if len(ring) > 1 else here
        turn = (before[1] - here[1], here[0] - before[0])
        chosen = next((p for p in choices if (p[0] - here[0], p[1] - here[1]) == turn), chosen)
    choices.remove(chosen)
    if not choices:
        del onward[here]
    return chosen


def _corners(ring: list[Point]) -> list[Point]:
    """Without the points on straight lines."""
    return [
        point
        for before, point, after in zip(
            [ring[-1], *ring[:-1]], ring, [*ring[1:], ring[0]], strict=True
        )
        if not (before[0] == point[0] == after[0] or before[1] == point[1] == after[1])
    ]
