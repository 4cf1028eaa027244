"""Reading of pictures of any format as upright RGB images.

Letters: ``H W`` picture size.
"""

import io
import math
import os
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from flmm.errors import InputError, first_line

PictureLike = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | NDArray[np.uint8]
"""A picture from the user: a file's path, content or file object, a PIL image, or a uint8 array of
(H, W, 3), grey (H, W), or with alpha (H, W, 4)."""

MAX_PIXELS = 64_000_000
"""Larger pictures are refused by their header, before decoding."""

# Without formats that run another program (EPS) or have no pixels of their own.
PICTURE_FORMATS = (
    "PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA", "ICO", "AVIF", "JPEG2000",
)  # fmt: skip

# Raised by Pillow's decoders on damaged files.
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    OverflowError,
    struct.error,
)
_ADDRESS = re.compile(r"(https?|ftp|s3|gs|hf)://|data:", re.IGNORECASE)
_DECOMPRESSION_BOMB_ERRORS = (Image.DecompressionBombError, Image.DecompressionBombWarning)


def read_picture(picture: PictureLike) -> Image.Image:
    """Read a picture: EXIF rotation applied, transparency on white, first frame only.

    Args:
        picture: see ``PictureLike``; a PIL image of any mode. A path may begin with ``~``.

    Returns:
        A new RGB image.

    Raises:
        InputError: it is of another type, missing, a folder, empty, no picture, damaged, has more
            than ``MAX_PIXELS`` pixels, or a side longer than ``max_side(MAX_PIXELS)``.
    """
    if isinstance(picture, Image.Image):
        return _decode(picture, "the picture")
    if isinstance(picture, np.ndarray):
        return _from_array(picture)
    if isinstance(picture, str | os.PathLike):
        return _read_file(_find_path(os.fsdecode(picture)))
    content = _read_file_object(picture) if isinstance(picture, _Readable) else picture
    if not isinstance(content, bytes | bytearray | memoryview):
        kind = type(picture).__name__
        raise InputError(
            f"the picture is of type {kind!r}; give a file, its bytes, a PIL image, or an"
            " (H, W, 3) uint8 array"
        )
    return _decode(open_picture(bytes(content)), "the picture")


def max_side(max_pixels: int) -> int:
    """Return the limit for a picture's longer side if ``max_pixels`` are allowed.

    Image processors may pad a picture to a square. With this limit the square has at most four
    times ``max_pixels``; without one, that of a thin strip could have billions.
    """
    return 2 * math.isqrt(max_pixels)


def open_picture(content: bytes, formats: Sequence[str] = PICTURE_FORMATS) -> Image.Image:
    """Open a file's content as a picture; read only the header.

    Args:
        content: of the file.
        formats: Pillow's names of the allowed formats.

    Raises:
        InputError: it is empty, in another format, damaged, or has far too many pixels.
    """
    name = "the picture"
    if not content:
        raise InputError(f"{name} is empty (0 bytes); copy or download it again")
    return _open(io.BytesIO(content), name, formats)


@runtime_checkable
class _Readable(Protocol):
    def read(self) -> object: ...


def _read_file_object(file: _Readable) -> object:
    try:
        if isinstance(file, io.IOBase) and file.seekable():
            file.seek(0)  # as Pillow does
        content = file.read()
    except Exception as error:  # whatever the object is: a closed file, an archive, a stream
        raise InputError(
            f"the picture's file cannot be read ({first_line(error)}); open it again, with mode"
            " 'rb'"
        ) from error
    if isinstance(content, str):
        raise InputError("the picture's file is opened as text; open it with mode 'rb'")
    return content


def _find_path(name: str) -> Path:
    if _ADDRESS.match(name):
        raise InputError(
            f"the picture {name[:100]!r} is an address; download it and give its file or bytes"
        )
    path = Path(name)
    if not name.startswith("~") or path.exists():
        return path
    try:
        return path.expanduser()
    except RuntimeError:  # there is no such user
        return path


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
    """Convert any PIL image, perhaps not decoded yet, to a new upright RGB one."""
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
        raise InputError(
            f"{name} is damaged or cut short ({first_line(error)}); copy or download it again"
        ) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_to_8_bits(np.asarray(image)))
    if not image.has_transparency_data:
        # What Exif's rotation returns is a new image already.
        return image if image.mode == "RGB" else image.convert("RGB")
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(white, layer).convert("RGB")


def _to_8_bits(
    values: np.ndarray[tuple[int, ...], np.dtype[np.generic]],
) -> NDArray[np.uint8]:
    """Scale (H, W) grey values to 0..255; integers are 16-bit, floats in 0..1 (or 0..255)."""
    grey = np.nan_to_num(values.astype(np.float64))
    if np.issubdtype(values.dtype, np.integer):
        # Pillow's mode for 16-bit grey is "I;16" or "I", by file format; 65535 is white in both.
        grey = grey / 257
    elif grey.max() <= 1:
        grey = grey * 255
    return np.clip(grey + 0.5, 0, 255).astype(np.uint8)


def _from_array(array: NDArray[np.uint8]) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    has_channels = array.ndim == 3 and array.shape[2] in (3, 4)
    if not (has_channels or array.ndim == 2) or array.dtype != np.uint8 or not array.size:
        raise InputError(
            f"the picture is an array {array.shape} of {array.dtype}; give (H, W, 3), (H, W) or"
            " (H, W, 4) of uint8"
        )
    return _decode(Image.fromarray(np.ascontiguousarray(array)), "the picture")


def _pixel_limit() -> str:
    return f"{MAX_PIXELS // 1_000_000} million"


def _quoted(path: Path) -> str:
    """Return the path for a message, on one line even if it has line breaks."""
    return repr(str(path))
