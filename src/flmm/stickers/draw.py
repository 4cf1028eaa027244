"""Drawings of scenes: the picture, and the exact mask of every thing and every region of stuff."""

from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from flmm.pictures.reading import read_picture
from flmm.stickers.augmentation import (
    FloatArray,
    RandomGenerator,
    augment_background,
    augment_picture,
    augment_sticker,
)
from flmm.stickers.kinds import STICKER_FOLDER, STUFF, Kind
from flmm.stickers.language import Mention
from flmm.stickers.scene import Scene, Thing

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]

# Textures of each kind of stuff; few enough for a process to cache all of them.
TEXTURE_VARIANTS = 24

# Base colours (RGB) of each kind of stuff; a scene mixes two of them and adds grain.
STUFF_COLOURS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "grass": ((88, 160, 60), (120, 180, 70), (60, 130, 50)),
    "sand": ((226, 200, 140), (214, 182, 120), (236, 214, 160)),
    "snow": ((240, 244, 250), (226, 234, 244), (248, 248, 252)),
    "water": ((40, 120, 180), (50, 140, 170), (30, 95, 160)),
    "road": ((96, 96, 100), (80, 80, 84), (116, 114, 112)),
    "wood floor": ((156, 104, 60), (176, 122, 74), (134, 86, 48)),
    "blue sky": ((120, 185, 240), (150, 205, 248), (100, 165, 230)),
    "night sky": ((16, 18, 52), (24, 24, 70), (10, 12, 36)),
    "sunset": ((250, 150, 80), (240, 110, 100), (252, 190, 110)),
    "brick wall": ((170, 84, 64), (150, 72, 58), (186, 100, 78)),
    "forest": ((38, 84, 52), (28, 68, 44), (50, 98, 58)),
}


@dataclass(frozen=True)
class Drawing:
    """A drawn scene; masks hold the visible pixels only, and together they tile the picture."""

    picture: Picture
    """(H, W, 3) uint8."""
    region_ids: NDArray[np.uint8]
    """(H, W): index of the region that each pixel shows; bands come first, then things."""
    scene: Scene

    @property
    def band_masks(self) -> Mask:
        """(bands, H, W) bool, in the order of `Scene.bands`."""
        return np.asarray(self.region_ids == np.arange(len(self.scene.bands))[:, None, None])

    @property
    def thing_masks(self) -> Mask:
        """(things, H, W) bool, in the order of `Scene.things`."""
        first = len(self.scene.bands)
        return np.asarray(
            self.region_ids == np.arange(first, first + len(self.scene.things))[:, None, None]
        )


@dataclass(frozen=True)
class DrawingStyle:
    """Options of how a scene is drawn."""

    artwork: Path = STICKER_FOLDER
    """The folder of the stickers' images."""
    augmentation_seed: int | None = None
    """Seed of training's augmentation (colours, stretching, grain, blur); None for none."""
    photograph: Path | None = None
    """A picture to draw instead of the bands of stuff; the bands' masks do not change."""


DEFAULT_STYLE = DrawingStyle()


@cache
def load_sticker(kind: Kind, artwork: Path = STICKER_FOLDER) -> Image.Image:
    """Return the kind's image as published, 64x64 RGBA."""
    with (artwork / f"{kind.emoji_code}.png").open("rb") as file:
        return Image.open(file).convert("RGBA")


def _smooth_noise(random: np.random.Generator, size: int, rows: int, columns: int) -> FloatArray:
    """Return (size, size) noise in about -1..1, interpolated from rows x columns random values."""
    coarse = Image.fromarray(random.normal(0, 0.5, (rows, columns)).astype(np.float32))
    smooth = coarse.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(smooth, dtype=np.float32)


@lru_cache(maxsize=len(STUFF) * TEXTURE_VARIANTS)
def _texture(name: str, variant: int, size: int) -> Picture:
    """Return one of the textures of a kind of stuff, (size, size, 3)."""
    random = np.random.default_rng((STUFF.index(name), variant))
    palette = np.asarray(STUFF_COLOURS[name], dtype=np.float32)
    first, second = palette[random.permutation(len(palette))[:2]]
    down, across = np.mgrid[0:size, 0:size].astype(np.float32) / size
    mix = 0.5 + 0.5 * _smooth_noise(random, size, 5, 5)
    strength = 9.0
    pattern = np.zeros((size, size), dtype=np.float32)
    if name == "grass":
        pattern = _smooth_noise(random, size, size // 6, size // 3) * 1.6
    elif name == "forest":
        pattern = _smooth_noise(random, size, size // 20, size // 24) * 2.6
    elif name == "sand":
        pattern = _smooth_noise(random, size, size // 3, size // 3)
    elif name == "snow":
        strength = 4.0
        pattern = _smooth_noise(random, size, 12, 9)
    elif name == "water":
        waves = np.sin(
            (down * random.uniform(26, 40) + 0.5 * _smooth_noise(random, size, 6, 6)) * 6.28
        )
        pattern = waves.astype(np.float32) * 1.3
    elif name == "road":
        pattern = _smooth_noise(random, size, size // 2, size // 2)
    elif name == "wood floor":
        boards = down * random.uniform(9, 14)
        pattern = np.where(boards % 1 < 0.08, -4.0, 0.0).astype(np.float32)
        pattern += _smooth_noise(random, size, size // 4, 4)
    elif name == "brick wall":
        rows = down * random.uniform(12, 16)
        columns = across * random.uniform(6, 8) + 0.5 * (np.floor(rows) % 2)
        mortar = (rows % 1 < 0.14) | (columns % 1 < 0.07)
        pattern = np.where(mortar, 6.0, 0.0).astype(np.float32) + _smooth_noise(random, size, 14, 8)
    elif name == "night sky":
        strength = 30.0
        pattern = (random.random((size, size)) > 0.9985).astype(np.float32) * 6
    elif name == "sunset":
        mix = np.clip(down * 1.8 + 0.1 * _smooth_noise(random, size, 3, 3), 0, 1)
        strength = 3.0
    else:
        mix = np.clip(down * 1.5, 0, 1)
        pattern = np.clip(_smooth_noise(random, size, 8, 5), 0.2, 1) * 3
    colour = first + (second - first) * mix[..., None] + strength * pattern[..., None]
    return np.asarray(np.clip(colour, 0, 255), dtype=np.uint8)


def _transform_sticker(
    thing: Thing, size: int, style: DrawingStyle, random: RandomGenerator | None
) -> Image.Image:
    image = load_sticker(thing.kind, style.artwork)
    width = height = max(2, round(thing.size * size))
    if random is not None:
        image = augment_sticker(image, random)
        stretch = random.uniform(-0.12, 0.12)
        width, height = round(width * (1 - max(stretch, 0))), round(height * (1 + min(stretch, 0)))
    if thing.mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    # Premultiplied alpha keeps the transparent pixels' colour out of the edges.
    image = image.convert("RGBa").resize((width, height), Image.Resampling.BICUBIC)
    return image.rotate(thing.degrees, Image.Resampling.BILINEAR, expand=True).convert("RGBA")


BAND_LIGHT_RANGE = (0.9, 1.06)
"""The lowest and highest brightness of a band: factors of its texture's colours."""
TAG_SIDE = 0.042
"""The side of a tag, as a fraction of the picture's; its digit is half as tall."""


@cache
def _tag(number: int, size: int) -> Image.Image:
    """Return a tag, a white RGBA square with a number, for a picture of `size` pixels."""
    side = max(round(TAG_SIDE * size), 2)
    large = Image.new("RGBA", (8 * side, 8 * side), (255, 255, 255, 255))
    draw = ImageDraw.Draw(large)
    draw.rectangle((0, 0, 8 * side - 1, 8 * side - 1), outline=(60, 60, 60, 255), width=side // 2)
    font = ImageFont.load_default(size=5.6 * side)
    draw.text((4 * side, 4 * side), str(number), fill=(0, 0, 0, 255), font=font, anchor="mm")
    return large.resize((side, side), Image.Resampling.BOX)


def _background(
    scene: Scene, size: int, random: RandomGenerator
) -> tuple[FloatArray, NDArray[np.uint8]]:
    """Return the drawn bands, (size, size, 3), and the index of the band at each pixel."""
    centres = np.asarray((np.arange(size) + 0.5) / size, dtype=np.float32)
    canvas = np.empty((size, size, 3), dtype=np.float32)
    region_ids = np.zeros((size, size), dtype=np.uint8)
    for index, band in enumerate(scene.bands):
        texture = _texture(band.name, int(random.integers(TEXTURE_VARIANTS)), size)
        light = random.uniform(*BAND_LIGHT_RANGE)
        below = centres[:, None] >= band.upper_edge(centres)[None, :]
        canvas[below] = texture[below] * np.float32(light)
        region_ids[below] = index
    return canvas, region_ids


@lru_cache(maxsize=32)
def _photograph(path: Path, size: int) -> FloatArray:
    """Return the largest central square of a picture, resized to (size, size, 3)."""
    return np.asarray(ImageOps.fit(read_picture(path), (size, size)), dtype=np.float32)


def draw(scene: Scene, size: int = 384, style: DrawingStyle = DEFAULT_STYLE) -> Drawing:
    """Draw a scene as a square of `size` pixels; the same arguments give the same picture."""
    random = np.random.default_rng(scene.texture_seed)
    augmentation = (
        None if style.augmentation_seed is None else np.random.default_rng(style.augmentation_seed)
    )
    canvas, region_ids = _background(scene, size, random)
    if style.photograph is not None:
        canvas = _photograph(style.photograph, size).copy()
    elif augmentation is not None:
        canvas = augment_background(canvas, augmentation)
    for index, thing in enumerate(scene.things):
        images = [_transform_sticker(thing, size, style, augmentation)]
        if thing.tag_number is not None:
            images.append(_tag(thing.tag_number, size))
        for image in images:
            window, covered = _paste(canvas, image, thing)
            region_ids[window][covered] = len(scene.bands) + index
    if augmentation is not None:
        canvas = augment_picture(canvas, augmentation)
    return Drawing(np.clip(canvas + 0.5, 0, 255).astype(np.uint8), region_ids, scene)


def _paste(
    canvas: FloatArray, image: Image.Image, thing: Thing
) -> tuple[tuple[slice, slice], Mask]:
    """Blend an RGBA image into the canvas at the thing's centre.

    Return the window of the canvas, and which of its pixels the image covers by more than half.
    """
    size = canvas.shape[0]
    pixels = np.asarray(image, dtype=np.float32)
    height, width = pixels.shape[:2]
    top, left = round(thing.y * size - height / 2), round(thing.x * size - width / 2)
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + height, size), min(left + width, size)
    patch = pixels[y0 - top : y1 - top, x0 - left : x1 - left]
    alpha = patch[..., 3:] / 255
    canvas[y0:y1, x0:x1] += (patch[..., :3] - canvas[y0:y1, x0:x1]) * alpha
    return (slice(y0, y1), slice(x0, x1)), alpha[..., 0] > 0.5


def mention_mask(drawing: Drawing, mention: Mention) -> Mask:
    """Return the union of the masks of all things and bands of a mention, (H, W) bool."""
    things = drawing.thing_masks[list(mention.things)].any(0)
    return np.asarray(things | drawing.band_masks[list(mention.bands)].any(0))
