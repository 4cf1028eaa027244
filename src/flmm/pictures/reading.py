"""Any picture a user may have, as an RGB picture the right way up.

Letters: ``H W`` picture size.
"""

import io
import math
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from flmm.errors import InputError

PictureLike = str | Path | Image.Image | NDArray[np.uint8]
"""What users may hand in: a file, a PIL image, or an (H, W, 3) uint8 array."""

MAX_PIXELS = 64_000_000
"""Pictures with more are refused by their header, before any of them is decoded."""

# No format that runs another program (EPS does) or has no pixels of its own.
PICTURE_FORMATS = (
    "PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA", "ICO", "AVIF", "JPEG2000",
)  # fmt: skip

# What Pillow's decoders raise on damaged files, beside OSError.
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    OverflowError,
    struct.error,
)
_DECOMPRESSION_BOMB_ERRORS = (Image.DecompressionBombError, Image.DecompressionBombWarning)


def read_picture(picture: PictureLike) -> Image.Image:
    """Reads a picture: EXIF rotation applied, transparency laid on white, first frame only.

    Args:
        picture: a file, a PIL image of any mode, or an (H, W, 3) uint8 array.

    Returns:
        A new RGB image.

    Raises:
        InputError: it is missing, a folder, empty, no picture, damaged, larger than
            ``MAX_PIXELS``, or longer than ``longest_side(MAX_PIXELS)``.
    """
    if isinstance(picture, Image.Image):
        return _decode(picture, "the picture")
    if isinstance(picture, np.ndarray):
        return _from_array(picture)
    return _read_file(Path(picture))


def max_side(max_pixels: int) -> int:
    """How long a picture's longer side may be where so many pixels are allowed.

    Image processors may lay a picture on a square: that of a strip of few pixels has billions, this
    one four times as many as are allowed.
    """
    return 2 * math.isqrt(max_pixels)


def open_picture(content: bytes, formats: Sequence[str] = PICTURE_FORMATS) -> Image.Image:
    """A file's content as a picture of which only the header was read.

    Args:
        content: of the file.
        formats: Pillow's names of those that it may be in.

    Raises:
        InputError: it is empty, none of these, damaged, or has far too many pixels.
    """
    name = "the picture"
    if not content:
        raise InputError(f"{name} is empty (0 bytes); copy or download it again")
    return _open(io.BytesIO(content), name, formats)


def _read_file(path: Path) -> Image.Image:
    name = _quoted(path)
    try:
        if path.is_dir():
            raise InputError(f"{name} is a folder; give a picture file")
        if path.stat().st_size == 0:
            raise InputError(f"{name} is empty (0 bytes); copy or download the picture again")
        with _open(path, name, PICTURE_FORMATS) as opened:
            return _decode(opened, name)
    except FileNotFoundError as error:
        raise InputError(f"there is no picture {name}; check the path") from error
    except InputError:
        raise
    except _DECODE_ERRORS as error:
        raise _unreadable_error(name, error) from error


def _open(source: Path | io.BytesIO, name: str, formats: Sequence[str]) -> Image.Image:
    try:
        return Image.open(source, formats=tuple(formats))
    except FileNotFoundError:
        raise
    except UnidentifiedImageError as error:
        kinds = "PNG, JPEG, WebP, GIF or TIFF" if len(formats) > 1 else formats[0]
        raise InputError(
            f"{name} is not a picture that flmm can read; give a {kinds} file"
        ) from error
    except _DECOMPRESSION_BOMB_ERRORS as error:
        raise InputError(
            f"{name} has too many pixels; make it smaller than {_pixel_limit()} pixels"
        ) from error
    except _DECODE_ERRORS as error:
        raise _unreadable_error(name, error) from error


def _unreadable_error(name: str, error: Exception) -> InputError:
    reason = error.strerror if isinstance(error, OSError) else None
    return InputError(f"{name} cannot be read ({reason or 'damaged header'}); check the file")


def _decode(image: Image.Image, name: str) -> Image.Image:
    """Any PIL image, perhaps not decoded yet, to a new RGB one."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{name} has {width} x {height} pixels; make it smaller than {_pixel_limit()} pixels"
        )
    if not width * height:
        raise InputError(f"{name} has {width} x {height} pixels; give one with at least 1 x 1")
    longest = max_side(MAX_PIXELS)
    if max(width, height) > longest:
        raise InputError(
            f"{name} has {width} x {height} pixels; cut it to sides of at most {longest}"
        )
    try:
        image.load()
        upright = ImageOps.exif_transpose(image)
        return _to_rgb(upright)
    except _DECODE_ERRORS as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise InputError(
            f"{name} is damaged or cut short ({reason}); copy or download it again"
        ) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_to_8_bits(np.asarray(image)))
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(white, layer).convert("RGB")


def _to_8_bits(
    values: np.ndarray[tuple[int, ...], np.dtype[np.generic]],
) -> NDArray[np.uint8]:
    """(H, W) grey values to 0..255; whole numbers are 16-bit, fractions in 0..1 (or 0..255)."""
    grey = np.nan_to_num(values.astype(np.float64))
    if np.issubdtype(values.dtype, np.integer):
        # Pillow calls 16-bit greys "I;16" or "I" by their file's format; 65535 is white in both.
        grey = grey / 257
    elif grey.max() <= 1:
        grey = grey * 255
    return np.clip(grey + 0.5, 0, 255).astype(np.uint8)


def _from_array(array: NDArray[np.uint8]) -> Image.Image:
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or not array.size:
        raise InputError(
            f"the picture is an array {array.shape} of {array.dtype}; give (H, W, 3) of uint8"
        )
    return _decode(Image.fromarray(np.ascontiguousarray(array)), "the picture")


def _pixel_limit() -> str:
    return f"{MAX_PIXELS // 1_000_000} million"


def _quoted(path: Path) -> str:
    """The file's name for a message: one line, whatever is in it."""
    return repr(str(path))
