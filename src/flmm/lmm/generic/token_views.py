"""Image tokens, of which the place in the picture is known, as the views of a prompt.

Letters: ``T`` image tokens of a picture, ``E`` pixel values of a token.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flmm.lmm.generic.pixel_sources import COLOURS, PixelSources
from flmm.lmm.generic.token_pixels import TokenPixels, lies_in_one_canvas, locate_values
from flmm.lmm.prompt import PictureView
from flmm.types import ImageGeometry, Size

_TOLERANCE = 0.25
"""In cells; the places of pixel values are precise to about 1/255 of the picture."""
_FEW_PIXELS = 8
_CUT_BELOW = 0.75
"""Tiles of one token across show at most half of the picture."""
_LINE_DISTANCE = 0.01
"""In fractions of the picture: places of lines of pixels in a cell differ by more."""
_WHOLE = 0.7
"""Cells that are padded along an axis show a smaller share of what others show, as a rule."""
_SCALE_TOLERANCE = 0.05
"""Tiles of one picture differ in scale by less."""


@dataclass(frozen=True, eq=False)
class _Canvas:
    """The grid of one canvas, and where its first cell's centre and its cells lie."""

    positions: Tensor
    """(h, w) int64: the tokens."""
    start: tuple[float, float]
    """(y, x) of the first cell's centre, in fractions of the picture."""
    step: tuple[float, float]
    """From a cell's centre to the next."""


def build_views(
    sources: PixelSources, token_pixels: TokenPixels, picture: Size
) -> tuple[PictureView, ...] | None:
    """Return the views of a picture, coarse before fine; canvases of one scale become one view.

    Positions count the T tokens that show the picture.

    Returns:
        None if the tokens of a canvas are no grid, or canvases of one scale are none together.
    """
    canvases = []
    for tokens in token_pixels.canvases:
        canvas = _locate_canvas(sources, token_pixels.indices[tokens], tokens, picture)
        if canvas is None:
            return None
        canvases.append(canvas)
    cell = max(1, round(math.sqrt(token_pixels.indices.shape[1] / 3)))
    views = []
    for group in _group_by_scale(canvases):
        joined = _join_canvases(group)
        if joined is None:
            return None
        views.append((len(group), _build_view(joined, cell, picture)))
    # Of a narrow picture, tiles may have fewer tokens left than the one canvas of the whole.
    views.sort(key=lambda view: (view[0], view[1].token_positions.numel()))
    return tuple(view for _, view in views)


def _locate_canvas(
    sources: PixelSources, indices: Tensor, tokens: Tensor, picture: Size
) -> _Canvas | None:
    """``indices``: (h, w, E), of the pixel values of each of the (h, w) tokens."""
    starts, steps = [], []
    for axis, places in enumerate((sources.y, sources.x)):
        cells = indices.movedim(axis, 0)
        if lies_in_one_canvas(sources, indices):
            centres, cell_numbers, pitch = _read_pixel_lines(places, cells, axis)
            numbers = torch.arange(len(centres)).float()
        else:
            # NaN for tokens that show padding too, which tell less precisely where they lie.
            shown = places.flatten()[cells]
            centres = shown.mean(dim=2).nanmean(dim=1)
            numbers = cell_numbers = torch.arange(len(centres)).float()
            pitch = 1.0
            is_padded = bool(centres.isnan().all())
            if is_padded and shown.flatten(1).isnan().all(dim=1)[1:].all():
                step = _measure_padded_cell(shown[0])
                if step is None:
                    return None
                starts.append(step / 2)
                steps.append(step)
                continue
            if is_padded:
                centres = _centre_padded_cells(shown)
        numbers, centres = numbers[~centres.isnan()], centres[~centres.isnan()]
        if len(centres) == 0:
            return None
        # Resizing leaves no slope within a pixel of the picture's edges.
        inner = (centres - 0.5).abs() < 0.5 - 1 / picture[axis]
        if inner.sum() > 1:
            slope, intercept = _fit_line(numbers[inner], centres[inner])
            step, fitted = slope * pitch, intercept + slope * numbers[inner]
            if step <= 0 or ((centres[inner] - fitted).abs() > _TOLERANCE * step).any():
                return None
        else:
            # A side of few pixels or of one cell.
            slope = _read_cell_length(places.flatten()[cells], picture[axis]) / len(centres)
            intercept = float(centres.mean() - slope * numbers.mean())
        # Canvases may cut off the first cell.
        first = (cell_numbers - pitch * torch.arange(len(cell_numbers))).median()
        starts.append(intercept + slope * float(first))
        steps.append(slope * pitch)
    return _Canvas(tokens, (starts[0], starts[1]), (steps[0], steps[1]))


def _measure_padded_cell(places: Tensor) -> float | None:
    """Return the length, in fractions of the picture, of the only cell, with padding after it.

    ``places``: (tokens across the axis, E) along the axis.

    Returns:
        None if there is padding before it.
    """
    if places[0, 0].isnan():
        return None
    # Every line of pixels has a place of its own.
    ordered = places[~places.isnan()].sort().values
    lines = 1 + int((ordered.diff() > _LINE_DISTANCE).sum())
    return math.sqrt(places.shape[1] / COLOURS) / lines


def _centre_padded_cells(places: Tensor) -> Tensor:
    """Return the (cells,) centres of cells with padding across the axis, NaN where also along it.

    ``places``: (cells along the axis, tokens across it, E) along the axis.
    """
    cells = places.flatten(1)
    least = cells.nan_to_num(torch.inf).amin(dim=1)
    most = cells.nan_to_num(-torch.inf).amax(dim=1)
    is_whole = most - least > _WHOLE * (most - least).max()
    return torch.where(is_whole, (least + most) / 2, torch.nan)


def _read_pixel_lines(places: Tensor, indices: Tensor, axis: int) -> tuple[Tensor, Tensor, float]:
    """Return the places of the lines of pixels of a canvas, and which of them its cells are.

    ``indices``: (cells along the axis, tokens across it, E), all of one canvas.

    Returns:
        (lines,) places, NaN for padding; (cells,) the lines that are the cells' centres; the lines
        of a cell.
    """
    canvas, *lines = locate_values(tuple(places.shape), indices)
    shown = places.flatten(0, -4)[int(canvas.flatten()[0])]
    colours = 0 if shown.shape[0] == COLOURS else 2
    centres = shown.movedim(colours, 2).movedim(axis, 0).flatten(1).nanmean(dim=1)
    first, last = lines[axis].flatten(1).aminmax(dim=1)
    return centres, (first + last) / 2, float((last - first + 1).median())


def _read_cell_length(places: Tensor, length: int) -> float:
    """Return the share of the picture's ``length`` pixels that cells of these places show.

    ``places``: (cells along the axis, tokens across it, E).
    """
    side = math.sqrt(places.shape[-1] / COLOURS) * len(places)
    shown = float(places.nan_to_num(-torch.inf).max() - places.nan_to_num(torch.inf).min())
    shown *= side / max(side - 1, 1)
    # Of a few pixels, edges without a slope hide more than a cut would.
    return shown if length >= _FEW_PIXELS and shown < _CUT_BELOW else 1.0


def _fit_line(numbers: Tensor, places: Tensor) -> tuple[float, float]:
    """Return the (step, place of number 0) that fit the places best."""
    offsets = numbers - numbers.mean()
    step = float((offsets * places).sum() / (offsets**2).sum())
    return step, float(places.mean()) - step * float(numbers.mean())


def _group_by_scale(canvases: Sequence[_Canvas]) -> list[list[_Canvas]]:
    """Group canvases of one scale that lie side by side; one that shows the same is apart."""
    groups: list[list[_Canvas]] = []
    for canvas in canvases:
        for group in groups:
            if _is_beside(canvas, group):
                group.append(canvas)
                break
        else:
            groups.append([canvas])
    return groups


def _is_beside(canvas: _Canvas, group: Sequence[_Canvas]) -> bool:
    steps = zip(canvas.step, group[0].step, strict=True)
    if any(abs(step / other - 1) > _SCALE_TOLERANCE for step, other in steps):
        return False
    return not any(_overlap(canvas, other) for other in group)


def _overlap(first: _Canvas, second: _Canvas) -> bool:
    """Tell whether canvases of one scale show some place both, by more than part of a cell."""
    return all(
        min(a + cells * step, b + others * step) - max(a, b) > _TOLERANCE * step
        for a, b, cells, others, step in zip(
            first.start,
            second.start,
            first.positions.shape,
            second.positions.shape,
            first.step,
            strict=True,
        )
    )


def _join_canvases(canvases: Sequence[_Canvas]) -> _Canvas | None:
    """Put canvases of one scale side by side; None if they do not fill a rectangle."""
    if len(canvases) == 1:
        return canvases[0]
    step = (
        sum(canvas.step[0] for canvas in canvases) / len(canvases),
        sum(canvas.step[1] for canvas in canvases) / len(canvases),
    )
    first = (min(c.start[0] for c in canvases), min(c.start[1] for c in canvases))
    corners = []
    for canvas in canvases:
        corner = [(canvas.start[axis] - first[axis]) / step[axis] for axis in (0, 1)]
        if any(abs(place - round(place)) > _TOLERANCE for place in corner):
            return None
        corners.append((round(corner[0]), round(corner[1])))
    shapes = [canvas.positions.shape for canvas in canvases]
    rows = max(top + shape[0] for (top, _), shape in zip(corners, shapes, strict=True))
    columns = max(left + shape[1] for (_, left), shape in zip(corners, shapes, strict=True))
    positions = torch.full((rows, columns), -1)
    for (top, left), canvas in zip(corners, canvases, strict=True):
        height, width = canvas.positions.shape
        positions[top : top + height, left : left + width] = canvas.positions
    cells = sum(canvas.positions.numel() for canvas in canvases)
    if cells != positions.numel() or (positions < 0).any():
        return None
    return _Canvas(positions, first, step)


def _build_view(canvas: _Canvas, cell: int, picture: Size) -> PictureView:
    """``cell``: pixels of a cell's side on the canvas."""
    rows, columns = canvas.positions.shape
    height, width = (max(1, round(cell / step)) for step in canvas.step)
    top, left = (
        round((step / 2 - start) / step * cell)
        for start, step in zip(canvas.start, canvas.step, strict=True)
    )
    geometry = ImageGeometry(
        picture, (height, width), (top, left), (rows * cell, columns * cell), (rows, columns)
    )
    return PictureView(canvas.positions, geometry)
