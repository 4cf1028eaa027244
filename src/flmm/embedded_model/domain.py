"""What the embedded model knows: pictures of stickers; and what users are told about others.

Letters: ``L`` lines in colour space, ``P`` pixels.
"""

import itertools

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flmm.stickers.draw import BAND_LIGHT_RANGE, STUFF_COLOURS

EMBEDDED_MODEL_NOTICE = (
    "the embedded model knows only pictures of its stickers: on any other its words, masks and"
    " scores mean nothing; for photographs, name a real LMM, such as"
    " --lmm Qwen/Qwen2.5-VL-3B-Instruct"
)

_SIDE = 48
"""Pixels a side at which a picture is looked at: too few for the grain of the textures."""
_LIGHTS = (BAND_LIGHT_RANGE[0], 0.95, 1.0, BAND_LIGHT_RANGE[1])
"""Of a scene's bands, close enough to each other for ``_MAX_DISTANCE``."""
_MAX_DISTANCE = 10
"""RGB distance between a pixel and the nearest mixture of a texture's colours."""
_MIN_SHARE = 0.45
"""Of pixels in a texture's colours. 1,500 held-out scenes have 0.57 or more, as JPEG 0.55; of 46
photographs and wallpapers, three have more than 0.45, and none of these is square."""


def is_sticker_scene(picture: Image.Image) -> bool:
    """Return whether an RGB picture can be a drawn scene of stickers.

    A scene is square, and most of it is stuff in the few colours that its textures mix.
    """
    if picture.width != picture.height:
        return False
    pixels = np.asarray(picture.resize((_SIDE, _SIDE), Image.Resampling.BOX), dtype=np.float32)
    distances = _distances_to_textures(pixels.reshape(-1, 3))
    return bool((distances < _MAX_DISTANCE).mean() >= _MIN_SHARE)


def _distances_to_textures(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the (P,) RGB distances of (P, 3) pixels to the nearest mixture of two colours."""
    pairs = [
        pair for colours in STUFF_COLOURS.values() for pair in itertools.combinations(colours, 2)
    ]
    lights = np.asarray(_LIGHTS, dtype=np.float32)[:, None, None, None]
    ends = (np.asarray(pairs, dtype=np.float32) * lights).reshape(-1, 2, 3)
    starts, directions = ends[:, 0], ends[:, 1] - ends[:, 0]
    # (P, L, 3) and (P, L): the nearest point of each line between two colours.
    offsets = pixels[:, None] - starts
    positions = (offsets * directions).sum(-1) / (directions**2).sum(-1)
    nearest = np.clip(positions, 0, 1)[..., None] * directions
    distances: NDArray[np.float32] = np.linalg.norm(offsets - nearest, axis=-1).min(axis=1)
    return distances
