"""Pictures, figures and masks as files.

Letters: ``H W`` picture size.
"""

import io
import os
import re
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flmm.atomic_write import check_folder_of, write_file_atomically
from flmm.errors import InputError

OUTPUT_FORMATS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP",
    ".tif": "TIFF", ".tiff": "TIFF",
}  # fmt: skip
"""Pillow's names of the formats that overlays are saved in, by the file name's suffix."""


_SEPARATORS = re.compile(r"[\W_]+")
_MAX_WORDS_IN_NAME = 40
"""Characters of a text in a file's name, at most 160 bytes."""


def encode_png(image: Image.Image) -> bytes:
    """Return the content of a PNG file."""
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def save_image(image: Image.Image, path: str | Path) -> None:
    """Write an image, in the format that the file name's suffix names, completely or not at all.

    Raises:
        InputError: the suffix is none of ``OUTPUT_FORMATS``, its format cannot hold a picture this
            large, or the file cannot be written.
    """
    kind = check_output_path(path)
    content = io.BytesIO()
    try:
        image.save(content, kind, quality=92)
    except (OSError, ValueError) as error:
        width, height = image.size
        raise InputError(
            f"{kind} cannot hold {width} x {height} pixels; save {str(path)!r} as .png"
        ) from error
    write_file_atomically(Path(path), content.getvalue())


def check_output_path(path: str | Path) -> str:
    """Check that an overlay can be saved there, before the work is done.

    Returns:
        Pillow's name of the format.

    Raises:
        InputError: the name's suffix is unknown, or its folder is missing or not writable.
    """
    path = Path(path)
    kind = OUTPUT_FORMATS.get(path.suffix.lower())
    if os.path.isdir(path):
        raise InputError(f"{str(path)!r} is a folder; give a file name, such as overlay.png")
    if kind is None:
        raise InputError(
            f"{str(path)!r} has no ending that names a picture format; "
            f"choose one of {', '.join(OUTPUT_FORMATS)}"
        )
    check_folder_of(path)
    return kind


def encode_mask_png(mask: NDArray[np.bool_]) -> bytes:
    """Return the content of an 8-bit grey PNG file of an (H, W) bool mask, 255 inside it.

    Ten times as fast as Pillow, which tries five filters on every row; a mask needs none.
    """
    height, width = mask.shape
    rows = np.zeros((height, width + 1), dtype=np.uint8)  # each begins with its filter: none
    np.multiply(mask, 255, out=rows[:, 1:], dtype=np.uint8)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 1)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def write_masks(folder: Path, masks: Iterable[tuple[str, NDArray[np.bool_]]]) -> list[Path]:
    """Write (H, W) bool masks as PNG files with their numbers and texts as names.

    Args:
        folder: made where it is missing; files of the same names are replaced.
        masks: each with its text.

    Returns:
        The files, such as "01-A-cat.png".

    Raises:
        InputError: a file cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"the folder {str(folder)!r} cannot be made ({error.strerror}); choose another"
        ) from error
    files = []
    for number, (text, mask) in enumerate(masks, 1):
        words = _SEPARATORS.sub("-", text).strip("-")[:_MAX_WORDS_IN_NAME]
        file = folder / f"{number:02d}-{words}.png"
        write_file_atomically(file, encode_mask_png(mask))
        files.append(file)
    return files
