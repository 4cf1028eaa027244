"""Whether image tokens show the part of the picture that an LMM's layout says.

Spots in the picture are made white, and the image features that change most must be theirs. The
vision tower's attention is left out meanwhile, which lets every patch see all others.

Letters: ``h w`` image-token grid, ``F`` image features of a picture.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from flmm.lmm.base import LMMAdapter
from flmm.lmm.generic.vision_probe import without_attention
from flmm.lmm.picture_features import PictureFeatureCache, stack_features
from flmm.lmm.prompt import PictureView, Prompt
from flmm.model_check.outcome import CheckOutcome
from flmm.types import ImageGeometry

_SPACING = 3
"""Every third cell of every third row gets a spot, so that no two are neighbours."""
_FIRST_CELLS = ((0, 0), (1, 2))
"""(row, column) of the first spot of each round."""
_DARKENING = 8
"""A white spot on a picture so much darker is visible after any shrinking."""


@dataclass(frozen=True)
class _Spot:
    row: int
    column: int
    box: tuple[int, int, int, int]
    """(left, top, right, bottom) in pixels of the picture."""


@torch.no_grad()
def check_places(adapter: LMMAdapter, picture: Image.Image) -> CheckOutcome:
    """Check the layout of a picture's shape by changing its pixels."""
    check = f"image tokens of {picture.width}×{picture.height} pixels"
    if adapter.placeless_reason is not None:
        reason = f"it only answers: {adapter.placeless_reason}"
        return CheckOutcome(check, "not checked", reason)
    dark = picture.convert("RGB").point(lambda value: value // _DARKENING)
    prompt = adapter.build_prompt(dark, "?")
    text_modules = set(adapter.text_model.modules())
    vision_modules = [module for module in adapter.model.modules() if module not in text_modules]
    tested, wrong = 0, []
    with without_attention(vision_modules):
        before = _encode(adapter, prompt)
        in_sequence = adapter.image_tokens_in_sequence
        if in_sequence and len(before) != int(_is_image(adapter, prompt).sum()):
            reason = f"the vision tower gives {len(before)} features for another number of tokens"
            return CheckOutcome(check, "not checked", reason)
        for index, view in enumerate(prompt.picture_views[0]):
            for spots in _choose_spots(view.geometry):
                change = (_encode_spotted(adapter, dark, spots) - before).norm(dim=-1)
                places = find_feature_indices(adapter, prompt, view)
                for spot in spots:
                    tested += 1
                    if not _is_local_maximum(change[places], spot.row, spot.column):
                        wrong.append((index, spot.row, spot.column))
    total = sum(view.token_positions.numel() for view in prompt.picture_views[0])
    measured = {"image_tokens": total, "tested": tested, "wrong": len(wrong)}
    if not tested:
        reason = f"each of the {total} cells is smaller than a pixel of the picture"
        return CheckOutcome(check, "not checked", reason, measured)
    if wrong:
        grid, row, column = wrong[0]
        detail = (
            f"{len(wrong)} of {tested} tested lie elsewhere than the layout says, the first in row"
            f" {row}, column {column} of grid {grid}"
        )
        return CheckOutcome(check, "not ok", detail, measured)
    detail = f"{tested} of {total} tested, all where the layout says"
    return CheckOutcome(check, "ok", detail, measured)


def _is_image(adapter: LMMAdapter, prompt: Prompt) -> Tensor:
    """Return (L,) bool: the prompt's image tokens, one for each of the F image features."""
    return prompt.inputs["input_ids"][0] == adapter.image_token_id


def find_feature_indices(adapter: LMMAdapter, prompt: Prompt, view: PictureView) -> Tensor:
    """Return (h, w) int64: the features of the view's tokens."""
    if not adapter.image_tokens_in_sequence:
        return view.token_positions
    return (_is_image(adapter, prompt).cumsum(0) - 1)[view.token_positions]


def _encode(adapter: LMMAdapter, prompt: Prompt) -> Tensor:
    """Return the (F, width) float32 image features, on the CPU."""

    def to_device(tensor: Tensor) -> Tensor:
        return tensor.to(adapter.device, adapter.dtype if tensor.is_floating_point() else None)

    # Not the adapter's own cache, since attention is left out.
    cache = PictureFeatureCache(adapter.model, adapter.picture_encoder)
    return stack_features(cache.get(prompt.inputs, to_device)).float().cpu()


def _encode_spotted(adapter: LMMAdapter, picture: Image.Image, spots: list[_Spot]) -> Tensor:
    spotted = picture.copy()
    draw = ImageDraw.Draw(spotted)
    for spot in spots:
        left, top, right, bottom = spot.box
        draw.rectangle((left, top, right - 1, bottom - 1), fill="white")
    return _encode(adapter, adapter.build_prompt(spotted, "?"))


def _choose_spots(geometry: ImageGeometry) -> Iterator[list[_Spot]]:
    """Yield the spots of each round: cells that hold whole pixels of the picture."""
    for first_row, first_column in _FIRST_CELLS:
        spots = []
        for row in range(first_row, geometry.grid[0], _SPACING):
            for column in range(first_column, geometry.grid[1], _SPACING):
                tall = cell_pixel_range(geometry, 0, row)
                wide = cell_pixel_range(geometry, 1, column)
                if tall is not None and wide is not None:
                    spots.append(_Spot(row, column, (wide[0], tall[0], wide[1], tall[1])))
        if spots:
            yield spots


def _is_local_maximum(change: Tensor, row: int, column: int) -> bool:
    """Tell whether a cell of the (h, w) changes has changed more than those around it."""
    top, left = max(row - 1, 0), max(column - 1, 0)
    around = change[top : row + 2, left : column + 2]
    return divmod(int(around.argmax()), around.shape[1]) == (row - top, column - left)


def cell_pixel_range(geometry: ImageGeometry, axis: int, index: int) -> tuple[int, int] | None:
    """Return the (first, last + 1) pixel of the picture wholly inside a cell; None without any."""
    cell = geometry.canvas[axis] / geometry.grid[axis]
    scale = geometry.resized[axis] / geometry.picture[axis]
    first = math.ceil((index * cell - geometry.offset[axis]) / scale - 1e-6)
    end = math.floor(((index + 1) * cell - geometry.offset[axis]) / scale + 1e-6)
    return (first, end) if 0 <= first < end <= geometry.picture[axis] else None
