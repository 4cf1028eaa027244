"""Attention maps as 8-bit pictures.

Letters: ``M`` layers, ``N`` heads, ``h w`` image-token grid.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flmm.grounding.attention_view import WordAttention
from flmm.serve.common.mask_formats import encode_png_url
from flmm.serve.plain.replies import AttendedWordReply, AttentionReply, MapReply, MapsReply
from flmm.serve.plain.requests import AttendRequest
from flmm.serve.workers.events import AttendFinished


def build_attention_reply(body: AttendRequest, event: AttendFinished) -> AttentionReply:
    """The maps of a text's words.

    Raises:
        InputError: there is no such layer or head.
    """
    attended = event.view
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
        timings={stage: round(seconds, 4) for stage, seconds in event.timings.items()},
    )


def _word(word: WordAttention, body: AttendRequest) -> AttendedWordReply:
    chosen = word.map(body.layer, body.head)
    return AttendedWordReply(
        text=word.text,
        start=word.start,
        end=word.end,
        on_picture=round(float(chosen.sum()), 4),
        map=_map(chosen),
        each=_build_all_maps(word.maps) if body.each else None,
    )


def _build_all_maps(maps: NDArray[np.float32]) -> MapsReply:
    """Of (M, N, h, w)."""
    layers, heads, height, width = maps.shape
    most = maps.max(axis=(2, 3))
    levels = _to_uint8(maps, most[..., None, None])
    side_by_side = levels.transpose(0, 2, 1, 3).reshape(layers * height, heads * width)
    return MapsReply(
        png=encode_png_url(Image.fromarray(side_by_side)),
        most=most.tolist(),
        on_picture=maps.sum(axis=(2, 3)).round(4).tolist(),
    )


def _map(values: NDArray[np.float32]) -> MapReply:
    most = values.max()
    return MapReply(png=encode_png_url(Image.fromarray(_to_uint8(values, most))), most=float(most))


def _to_uint8(
    values: NDArray[np.float32], max_values: NDArray[np.float32] | np.float32
) -> NDArray[np.uint8]:
    return np.rint(values * (255 / np.maximum(max_values, 1e-12))).astype(np.uint8)
