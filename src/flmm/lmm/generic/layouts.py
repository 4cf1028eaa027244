"""Finding the image tokens of pictures: their text, and where in the picture each of them lies.

Letters: ``F`` image features of a picture, which are its image tokens' embeddings.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor, nn

from flmm.errors import InputError
from flmm.lmm.generic.pixel_sources import PixelSources, find_pixel_sources
from flmm.lmm.generic.token_overlap import (
    agrees_where_tokens_overlap,
    place_overlapping_tokens,
)
from flmm.lmm.generic.token_pixels import ARRANGEMENTS, TokenPixels
from flmm.lmm.generic.token_reading import read_token_pixels
from flmm.lmm.generic.token_views import build_views
from flmm.lmm.generic.vision_probe import (
    agrees_with_vision_tower,
    find_picture_features,
    without_attention,
)
from flmm.lmm.prompt import PictureView
from flmm.lru_cache import LRUCache
from flmm.types import Size

_READ = "read from the vision tower"
"""An arrangement that is known for one shape of pixel values and number of tokens alone."""
_OVERLAPPING = "overlapping cells of canvases"
"""The last that is proposed, if no pixel belongs to one token alone."""
_LARGEST_TOKEN = 64
"""Pixels a side of the picture that an image token shows at most."""
_SMALL, _ENLARGEMENT = 4, 16
"""Pictures of fewer pixels a side tell too little about places; larger ones of their shape do."""
_PROBED_SHAPES = 2
"""The vision tower is asked about so many shapes of pictures; then its arrangement is known."""


class LayoutError(ValueError):
    """Says in words why image tokens have no known place in the picture."""


class FeatureCountError(ValueError):
    """Says that processor and vision tower do not fit: one image token must have one feature."""


@dataclass(frozen=True, eq=False)
class ProcessedText:
    """What the model's processor makes of one picture."""

    inputs: Mapping[str, Tensor]
    text: str
    """What it writes in the place of the picture."""
    image_tokens: int
    """F: how many image tokens that text has."""


@dataclass(frozen=True, eq=False)
class FoundLayout:
    """The text and the views of pictures of one size; positions count the F image tokens."""

    text: str
    views: tuple[PictureView, ...]
    """Coarse before fine."""
    enlargement: int = 1
    """How many times larger the processor must be shown the picture.

    Some of transformers' vision towers fail at pictures of a single image token.
    """

    def enlarge(self, picture: Image.Image) -> Image.Image:
        """Return the picture as the processor must be shown it."""
        size = (picture.width * self.enlargement, picture.height * self.enlargement)
        return picture.resize(size, Image.Resampling.NEAREST)


class LayoutFinder:
    """The layouts of pictures, found once for each size.

    Args:
        process: the model's processor, of one picture.
        encode: from a picture's inputs to its (F, width) image features.
        vision_modules: those whose attention lets patches see each other.
    """

    def __init__(
        self,
        process: Callable[[Image.Image], ProcessedText],
        encode: Callable[[Mapping[str, Tensor]], Tensor],
        vision_modules: tuple[nn.Module, ...],
    ) -> None:
        self._process = process
        self._encode = encode
        self._vision_modules = vision_modules
        self._layouts: LRUCache[FoundLayout] = LRUCache(1024)
        self._texts: LRUCache[FoundLayout] = LRUCache(1024)
        """Layouts without views, which may be asked for before those with views."""
        self._agreed: list[str] = []
        """The arrangement of each shape that the vision tower was asked about."""
        self._read: dict[tuple[tuple[int, ...], int], TokenPixels] = {}
        """Arrangements that were read, by the shape of the pixel values and T."""
        self._overlapping: dict[tuple[tuple[int, ...], int], TokenPixels] = {}
        """Overlapping cells that the vision tower agreed with, likewise."""
        self._pixel_input: str | None = None
        self._has_other_tokens = False
        """Whether some image tokens show no part of the picture, such as row breaks."""

    def find(self, picture: Size) -> FoundLayout:
        """Return the layout of pictures of this size.

        Raises:
            LayoutError: there is none that the vision tower agrees with.
            FeatureCountError: the vision tower has more or fewer features than image tokens.
        """
        return self._layouts.get_or_create(repr(picture).encode(), lambda: self._find(picture))

    def find_text(self, picture: Size) -> FoundLayout:
        """Return what the processor writes for pictures of this size, without views."""

        def find() -> FoundLayout:
            return FoundLayout(self._process(Image.new("RGB", picture[::-1])).text, ())

        return self._texts.get_or_create(repr(picture).encode(), find)

    @torch.no_grad()
    def check_feature_count(self, picture: Size) -> None:
        """Check that pictures of this size have as many image features as image tokens.

        Raises:
            FeatureCountError: they have more or fewer.
        """
        processed = self._process(Image.new("RGB", picture[::-1]))
        _check_count(len(self._encode(processed.inputs)), processed.image_tokens)

    @torch.no_grad()
    def _find(self, picture: Size) -> FoundLayout:
        height, width = picture
        try:
            processed = self._process(Image.new("RGB", (width, height)))
        except InputError:
            # Some processors cannot tell the colours of a single pixel from its height.
            if max(picture) > 1:
                raise
            return self._find_larger(picture)
        if processed.image_tokens == 1 and max(picture) <= _LARGEST_TOKEN:
            return self._find_larger(picture)
        if self._pixel_input is None:
            white = self._process(Image.new("RGB", (width, height), "white"))
            self._pixel_input = _find_pixel_input(processed.inputs, white.inputs)
        name = self._pixel_input
        pixels = processed.inputs[name]
        if min(picture) < _SMALL:
            larger = (height * _ENLARGEMENT, width * _ENLARGEMENT)
            try:
                other = self._process(Image.new("RGB", larger[::-1]))
            except InputError:
                other = None
            if (
                other is not None
                and other.text == processed.text
                and other.inputs[name].shape == pixels.shape
            ):
                layout = self._find(larger)
                return replace(layout, views=_of_picture(layout.views, picture))
        sources = find_pixel_sources(lambda coded: self._process(coded).inputs[name], picture)
        if sources is None:
            raise LayoutError("its image processor changes colours in a way of its own")

        def encode(values: Tensor) -> Tensor:
            return self._encode({**processed.inputs, name: values}).cpu()

        is_known = len(self._agreed) >= _PROBED_SHAPES
        shows_picture = torch.ones(processed.image_tokens, dtype=torch.bool)
        with without_attention(self._vision_modules):
            if not is_known or self._has_other_tokens:
                shows_picture = find_picture_features(encode, pixels)
                self._has_other_tokens |= not bool(shows_picture.all())
            _check_count(len(shows_picture), processed.image_tokens)
            for arrangement, found, agrees in self._check(
                self._propose(encode, pixels, shows_picture, sources),
                (encode, pixels, shows_picture),
            ):
                views = build_views(sources, found, picture)
                is_trusted = is_known and arrangement in self._agreed and arrangement != _READ
                key = (tuple(pixels.shape), len(found.indices))
                if arrangement == _OVERLAPPING:
                    is_trusted = key in self._overlapping
                if views is not None and (is_trusted or agrees()):
                    if not is_known:
                        self._agreed.append(arrangement)
                    if arrangement == _READ:
                        self._read[key] = found
                    elif arrangement == _OVERLAPPING:
                        self._overlapping[key] = found
                    positions = shows_picture.nonzero()[:, 0]
                    return FoundLayout(
                        processed.text,
                        tuple(
                            replace(view, token_positions=positions[view.token_positions])
                            for view in views
                        ),
                    )
        raise LayoutError("its vision tower shows no single place for each image token")

    def _find_larger(self, picture: Size) -> FoundLayout:
        layout = self._find((2 * picture[0], 2 * picture[1]))
        return FoundLayout(layout.text, _of_picture(layout.views, picture), 2 * layout.enlargement)

    def _check(
        self,
        proposed: Iterator[tuple[str, TokenPixels]],
        probe: tuple[Callable[[Tensor], Tensor], Tensor, Tensor],
    ) -> Iterator[tuple[str, TokenPixels, Callable[[], bool]]]:
        """Yield arrangements with what checks them: first all exactly, then for overlaps."""
        seen = []
        for arrangement, found in proposed:
            if arrangement == _OVERLAPPING:
                agrees = functools.partial(agrees_where_tokens_overlap, *probe, found)
            else:
                seen.append((arrangement, found))
                agrees = functools.partial(agrees_with_vision_tower, *probe, found.indices)
            yield arrangement, found, agrees
        for arrangement, found in seen:
            yield arrangement, found, functools.partial(agrees_where_tokens_overlap, *probe, found)

    def _propose(
        self,
        encode: Callable[[Tensor], Tensor],
        pixels: Tensor,
        shows_picture: Tensor,
        sources: PixelSources,
    ) -> Iterator[tuple[str, TokenPixels]]:
        """Yield the arrangements that are possible, that of earlier shapes first."""
        shape, tokens = tuple(pixels.shape), int(shows_picture.sum())
        if not tokens:
            return
        if (shape, tokens) in self._overlapping:
            yield _OVERLAPPING, self._overlapping[shape, tokens]
        proposed = (*self._agreed[:1], *ARRANGEMENTS, _READ, _OVERLAPPING)
        for arrangement in dict.fromkeys(proposed):
            if arrangement == _OVERLAPPING:
                found = place_overlapping_tokens(encode, pixels, shows_picture, sources)
                if found is not None:
                    yield _OVERLAPPING, found
                continue
            if arrangement != _READ:
                found = ARRANGEMENTS[arrangement](shape, tokens, sources)
                if found is not None:
                    yield arrangement, found
                continue
            if (shape, tokens) in self._read:
                yield _READ, self._read[shape, tokens]
            found = read_token_pixels(encode, pixels, shows_picture, sources)
            if found is not None:
                yield _READ, found


def _of_picture(views: tuple[PictureView, ...], picture: Size) -> tuple[PictureView, ...]:
    """Return the views of a larger picture as those of a smaller one of the same shape."""
    return tuple(replace(v, geometry=replace(v.geometry, picture=picture)) for v in views)


def _check_count(features: int, image_tokens: int) -> None:
    if features != image_tokens:
        raise FeatureCountError(
            f"its vision tower gives {features} features for {image_tokens} image tokens"
        )


def _find_pixel_input(black: Mapping[str, Tensor], white: Mapping[str, Tensor]) -> str:
    """Return the name of the one input that differs between a black and a white picture.

    Raises:
        LayoutError: there is none, or there are several.
    """
    names = [
        name
        for name, tensor in black.items()
        if tensor.is_floating_point() and not tensor.equal(white[name])
    ]
    if len(names) != 1:
        raise LayoutError(f"its image processor gives pixels as {names or list(black)}")
    return names[0]
