"""Attention maps as 8-bit pictures.

Letters: ``M`` layers, ``N`` heads, ``h w`` image-token grid.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flmm.attending import AttendedWord
from flmm.serve.events import Attended
from flmm.serve.masks import png_url
from flmm.serve.replies import AttendedWordReply, AttentionReply, MapReply
from flmm.serve.requests import AttendRequest


def attention_reply(body: AttendRequest, end: Attended) -> AttentionReply:
    """The maps of a text's words.

    Raises:
        InputError: there is no such layer or head.
    """
    attended = end.text
    geometry = attended.geometry
    layers, heads = attended.words[0].maps.shape[:2] if attended.words else (0, 0)
    return AttentionReply(
        question=attended.question,
        text=attended.text,
        lmm=attended.lmm,
        size=geometry.picture,
        grid=geometry.grid,
        canvas=geometry.canvas,
        place=(*geometry.offset, *geometry.resized),
        layers=layers,
        heads=heads,
        words=[_word(word, body) for word in attended.words],
        timings={stage: round(seconds, 4) for stage, seconds in end.timings.items()},
    )


def _word(word: AttendedWord, body: AttendRequest) -> AttendedWordReply:
    chosen = word.map(body.layer, body.head)
    return AttendedWordReply(
        text=word.text,
        start=word.start,
        end=word.end,
        on_picture=round(float(chosen.sum()), 4),
        map=_map(chosen),
        each=_map(_side_by_side(word.maps)) if body.each else None,
    )


def _side_by_side(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """(M, N, h, w) to (M·h, N·w)."""
    layers, heads, height, width = maps.shape
    return maps.transpose(0, 2, 1, 3).reshape(layers * height, heads * width)


def _map(values: NDArray[np.float32]) -> MapReply:
    most = float(values.max(initial=0))
    levels = np.rint(values * (255 / max(most, 1e-12))).clip(0, 255).astype(np.uint8)
    return MapReply(png=png_url(Image.fromarray(levels)), most=most)
