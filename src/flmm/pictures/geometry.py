"""Geometry between the LMM's canvas and the user's picture: crop, resize, boxes.

The mask decoder's logits cover the *canvas* (the picture plus what the image processor padded,
minus what it cropped). ``crop_to_picture`` crops them to the part that shows the picture,
``place_on_picture`` places that part in a frame of the whole picture, and ``mask_box`` returns the
box around a mask.

Letters: ``P`` phrases, ``H W`` picture size, ``h' w'`` logits over the canvas, ``h'' w''`` logits
over the picture's visible part.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from flmm.types import Box, ImageGeometry, Size


def crop_to_picture(logits: Tensor, geometry: ImageGeometry) -> Tensor:
    """Crop logits over the canvas to the part that shows the picture.

    Args:
        logits: (..., h', w'), covering the whole canvas at any resolution.
        geometry: where the picture lies on the canvas.

    Returns:
        (..., h'', w''), a view, at least one row and one column.
    """
    (top, rows), (left, columns) = (
        _crop_range(logits.shape[axis - 2], geometry, axis) for axis in (0, 1)
    )
    return logits[..., top : top + rows, left : left + columns]


def place_on_picture(
    logits: Tensor, geometry: ImageGeometry, size: Size, background: Tensor
) -> Tensor:
    """Place logits over the picture's visible part in a frame of the whole picture.

    Args:
        logits: (P, h'', w''), from ``crop_to_picture``.
        geometry: where the picture lies on the canvas.
        size: (height, width) of the frame, in any unit; ``geometry.picture`` for picture pixels.
        background: (P,) logit for the parts that the image processor cropped away.

    Returns:
        (P, *size), resized bilinearly (pixel centres, ``align_corners=False``).
    """
    (top, bottom), (left, right) = (_visible_range(geometry, axis, size[axis]) for axis in (0, 1))
    visible = functional.interpolate(
        logits[:, None], (bottom - top, right - left), mode="bilinear", align_corners=False
    )[:, 0]
    if visible.shape[1:] == size:
        return visible
    frame = background.to(visible.dtype)[:, None, None].expand(-1, *size).clone()
    frame[:, top:bottom, left:right] = visible
    return frame


def resize_maps_to_picture(maps: Tensor, geometry: ImageGeometry, size: Size) -> Tensor:
    """Resize attention maps to a frame of the whole picture.

    Args:
        maps: (P, h, w) on ``geometry``'s grid.
        geometry: where the picture lies on the canvas.
        size: (height, width) of the frame, in any unit.

    Returns:
        (P, *size), bilinear between cell centres; 0 in parts that the image processor cropped away.
    """
    canvas = functional.interpolate(
        maps[:, None], geometry.canvas, mode="bilinear", align_corners=False
    )[:, 0]
    return place_on_picture(
        crop_to_picture(canvas, geometry), geometry, size, canvas.new_zeros(len(canvas))
    )


def sample_on_picture(maps: Tensor, geometry: ImageGeometry, size: Size) -> Tensor:
    """Sample maps bicubically at the pixels of a frame of the whole picture.

    Unlike ``resize_maps_to_picture`` this needs no memory for the canvas.

    Args:
        maps: (P, h, w) on ``geometry``'s grid.
        geometry: where the picture lies on the canvas.
        size: (height, width) of the frame, in any unit.

    Returns:
        (P, *size), which can exceed the maps' values a little; each map's minimum in parts that the
        image processor cropped away.
    """
    frame = ImageGeometry(geometry.picture, geometry.picture, (0, 0), geometry.picture, size)
    centres = _cell_centres(geometry, frame).to(maps)
    sampled = functional.grid_sample(
        maps[None], centres[None], mode="bicubic", padding_mode="border", align_corners=False
    )[0]
    cropped_away = (centres.abs() > 1).any(dim=-1)
    return torch.where(cropped_away, maps.amin(dim=(1, 2), keepdim=True), sampled)


def resample_to_grid(maps: Tensor, source: ImageGeometry, target: ImageGeometry) -> Tensor:
    """Resample maps from one view's grid to another view's grid.

    Args:
        maps: (..., h, w) on ``source``'s grid.
        source: the view that the maps are of.
        target: another view of the same picture.

    Returns:
        (..., *target.grid), bilinear between cell centres, constant beyond the outermost ones.
    """
    if source == target:
        return maps
    centres = _cell_centres(source, target).to(maps)
    flat = maps.reshape(1, -1, *maps.shape[-2:])
    resampled = functional.grid_sample(
        flat, centres[None], padding_mode="border", align_corners=False
    )
    return resampled.reshape(*maps.shape[:-2], *target.grid)


def cell_centres_on_picture(geometry: ImageGeometry) -> Tensor:
    """Return the (2, h, w) float32 x, y of the image tokens' centres, in picture pixels.

    Those of image tokens that show padding lie outside the picture.
    """
    rows, columns = (
        (
            (torch.arange(geometry.grid[axis]) + 0.5) * geometry.canvas[axis] / geometry.grid[axis]
            - geometry.offset[axis]
        )
        * geometry.picture[axis]
        / geometry.resized[axis]
        for axis in (0, 1)
    )
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"))


def _cell_centres(source: ImageGeometry, target: ImageGeometry) -> Tensor:
    """Return x, y of ``target``'s cells' centres on ``source``'s canvas, (h, w, 2) in -1..1."""
    axes = []
    for axis in (0, 1):
        cells = torch.arange(target.grid[axis], dtype=torch.float64) + 0.5
        pixels = cells * target.canvas[axis] / target.grid[axis]
        share = (pixels - target.offset[axis]) / target.resized[axis]
        source_pixels = share * source.resized[axis] + source.offset[axis]
        axes.append(source_pixels / source.canvas[axis] * 2 - 1)
    return torch.stack(torch.meshgrid(axes[1], axes[0], indexing="xy"), dim=-1)


def resize_to_picture(logits: Tensor, geometry: ImageGeometry) -> Tensor:
    """Resize (P, h'', w'') over the visible part to (P, H, W); cropped parts are negative."""
    return place_on_picture(logits, geometry, geometry.picture, background_logit(logits))


def background_logit(logits: Tensor) -> Tensor:
    """Return (P,) logits for what is surely outside: ``min(-1, minimum)`` of each (P, a, b)."""
    return logits.detach().amin(dim=(1, 2)).clamp_max(-1)


def mask_boxes(masks: Tensor) -> Tensor:
    """Return the boxes around masks, on the masks' device.

    Args:
        masks: (P, H, W) bool.

    Returns:
        (P, 4) int64 (x0, y0, x1, y1), x1 and y1 exclusive; all zeros for an empty mask.
    """
    x0, x1 = _extent(masks.any(dim=1))
    y0, y1 = _extent(masks.any(dim=2))
    return torch.stack([x0, y0, x1, y1], dim=1)


def mask_box(mask: Tensor) -> Box | None:
    """Return the box around one (H, W) bool mask, x1 and y1 exclusive; None if it is empty."""
    x0, y0, x1, y1 = mask_boxes(mask[None])[0].tolist()
    return (x0, y0, x1, y1) if x1 else None


def _extent(present: Tensor) -> tuple[Tensor, Tensor]:
    """Return (first, last + 1) of the True values of each row of (P, length); zeros if none."""
    length = present.shape[1]
    flags = present.to(torch.uint8)
    nonempty = present.any(dim=1)
    begin = flags.argmax(dim=1) * nonempty
    end = (length - flags.flip(1).argmax(dim=1)) * nonempty
    return begin, end


def _crop_range(length: int, geometry: ImageGeometry, axis: int) -> tuple[int, int]:
    """Return (first, count) of the canvas's ``length`` rows or columns that show the picture.

    The start is rounded down and the count to the nearest, each from its own number of canvas
    pixels, as in the implementation that the published heads were trained with.
    """
    canvas = geometry.canvas[axis]
    begin = max(geometry.offset[axis], 0)
    end = min(geometry.offset[axis] + geometry.resized[axis], canvas)
    first = min(begin * length // canvas, length - 1)
    count = max(int((end - begin) * length / canvas + 0.5), 1)
    return first, min(count, length - first)


def _visible_range(geometry: ImageGeometry, axis: int, length: int) -> tuple[int, int]:
    """Return (begin, end) of the picture's visible part on an axis of ``length``; never empty."""
    resized, offset = geometry.resized[axis], geometry.offset[axis]
    hidden_before = max(-offset, 0)
    hidden_after = max(offset + resized - geometry.canvas[axis], 0)
    begin = min(round(hidden_before * length / resized), length - 1)
    end = round((resized - hidden_after) * length / resized)
    return begin, max(end, begin + 1)


def square_box_around(box: Box, margin: float, size: Size) -> Box:
    """Return the square around a box, with a margin, moved into the picture.

    Args:
        box: in picture pixels.
        margin: added on each side, as a multiple of the box's longer side.
        size: (height, width) of the picture, which the result does not exceed.
    """
    x0, y0, x1, y1 = box
    side = math.ceil(max(x1 - x0, y1 - y0) * (1 + 2 * margin))
    left, right = _clamped_range((x0 + x1) / 2, side, size[1])
    top, bottom = _clamped_range((y0 + y1) / 2, side, size[0])
    return left, top, right, bottom


def _clamped_range(centre: float, side: int, length: int) -> tuple[int, int]:
    """Return (first, last + 1) of ``side`` pixels around a centre, moved into 0..length."""
    side = min(side, length)
    first = min(max(math.floor(centre - side / 2), 0), length - side)
    return first, first + side
