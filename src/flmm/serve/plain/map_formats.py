"""Attention maps as 8-bit grey pictures.

Letters: ``M`` layers, ``N`` heads, ``h w`` image-token grid.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flmm.grounding.attention_view import WordAttention
from flmm.serve.common.mask_formats import encode_png_url
from flmm.serve.plain.request_models import AttendRequest
from flmm.serve.plain.response_models import AttendedWordReply, AttentionReply, MapReply, MapsReply
from flmm.serve.workers.events import AttendFinished


def build_attention_reply(body: AttendRequest, event: AttendFinished) -> AttentionReply:
    """Return the attention maps of a text's words.

    Raises:
        InputError: there is no such layer or head.
    """
    view = event.view
    geometry = view.geometry
    layers, heads = view.words[0].maps.shape[:2] if view.words else (0, 0)
    return AttentionReply(
        question=view.question,
        text=view.text,
        lmm=view.lmm,
        size=geometry.picture,
        grid=geometry.grid,
        canvas=geometry.canvas,
        place=(*geometry.offset, *geometry.resized),
        layers=layers,
        heads=heads,
        words=[_build_word_reply(word, body) for word in view.words],
        timings={stage: round(seconds, 4) for stage, seconds in event.timings.items()},
    )


def _build_word_reply(word: WordAttention, body: AttendRequest) -> AttendedWordReply:
    attention_map = word.map(body.layer, body.head)
    return AttendedWordReply(
        text=word.text,
        start=word.start,
        end=word.end,
        on_picture=round(float(attention_map.sum()), 4),
        map=_build_map_reply(attention_map),
        each=_build_maps_reply(word.maps) if body.each else None,
    )


def _build_maps_reply(maps: NDArray[np.float32]) -> MapsReply:
    """Return all (M, N, h, w) maps of a word, each scaled to its own maximum."""
    layers, heads, height, width = maps.shape
    max_values = maps.max(axis=(2, 3))
    grey = _to_uint8(maps, max_values[..., None, None])
    side_by_side = grey.transpose(0, 2, 1, 3).reshape(layers * height, heads * width)
    return MapsReply(
        png=encode_png_url(Image.fromarray(side_by_side)),
        most=max_values.tolist(),
        on_picture=maps.sum(axis=(2, 3)).round(4).tolist(),
    )


def _build_map_reply(values: NDArray[np.float32]) -> MapReply:
    max_value = values.max()
    png = encode_png_url(Image.fromarray(_to_uint8(values, max_value)))
    return MapReply(png=png, most=float(max_value))


def _to_uint8(
    values: NDArray[np.float32], max_values: NDArray[np.float32] | np.float32
) -> NDArray[np.uint8]:
    return np.rint(values * (255 / np.maximum(max_values, 1e-12))).astype(np.uint8)
