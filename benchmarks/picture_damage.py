"""Damaged, unusual and inconsistent pictures, each determined by its seed."""

import io
import random
import struct
import zlib
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image

KINDS = ("PNG", "JPEG", "WEBP", "GIF")
_MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("L", "P"),
}
_OTHER_FILES = (
    b"PK\x03\x04" + b"\0" * 26, b"%PDF-1.7\n", b"<script>alert(1)</script>", b"\x7fELF\x02\x01",
    b"<?php system($_GET['c']); ?>", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0",
)  # fmt: skip
_SIZES = (0, 1, 2, 255, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1)


def damage_picture(seed: int) -> tuple[bytes, str]:
    """Return a file's content, and the media type that it is sent with."""
    rng = random.Random(seed)
    kind = rng.choice(KINDS)
    content = _encode_picture(kind, rng.choice(_MODES[kind]), rng.randrange(4))
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        content = rng.choice(_DAMAGES)(content, rng)
    if rng.random() < 0.03:
        kind = rng.choice(KINDS)
    return content, f"image/{kind.lower()}"


def valid_png() -> bytes:
    """Return an undamaged PNG."""
    return _encode_picture("PNG", "RGB", 0)


@cache
def _encode_picture(kind: str, mode: str, variant: int) -> bytes:
    """Return an undamaged picture; the variant adds frames, Exif or an ICC profile."""
    picture = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (20, 28, 3), dtype=np.uint8)
    )
    frame = Image.new(mode, (28, 20), 999) if mode == "I;16" else picture.convert(mode)
    content = io.BytesIO()
    options: dict[str, object] = {}
    if variant == 1 and mode != "CMYK":
        options = {"save_all": True, "append_images": [frame.rotate(90), frame], "duration": 40}
        options = {} if kind == "JPEG" else options
    elif variant == 2:
        exif = Image.Exif()
        exif[0x0112] = 6
        exif[0x010E] = "x" * 300
        options = {} if kind == "GIF" else {"exif": exif.tobytes()}
    elif variant == 3:
        options = {"icc_profile": bytes(range(256)) * 3}
    frame.save(content, kind, **options)
    return content.getvalue()


def _flip_bits(content: bytes, rng: random.Random) -> bytes:
    flipped = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5, 40)) if flipped else 0):
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
    return bytes(flipped)


def _flip_header(content: bytes, rng: random.Random) -> bytes:
    return _flip_bits(content[:64], rng) + content[64:]


def _truncate(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _splice(content: bytes, rng: random.Random) -> bytes:
    """Return the beginning of another picture, followed by all or most of this one."""
    kind = rng.choice(KINDS)
    other = _encode_picture(kind, rng.choice(_MODES[kind]), rng.randrange(4))
    offset = rng.randrange(min(len(content), 200) + 1)
    return other[:offset] + content[offset:]


def _repeat(content: bytes, rng: random.Random) -> bytes:
    first, second = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    return content[:second] + content[first:second] * rng.randint(1, 8) + content[second:]


def _drop(content: bytes, rng: random.Random) -> bytes:
    first = rng.randrange(len(content) + 1)
    return content[:first] + content[first + rng.randint(1, 64) :]


def _append(content: bytes, rng: random.Random) -> bytes:
    return content + rng.choice(_OTHER_FILES) + rng.randbytes(rng.randrange(50))


def _insert(content: bytes, rng: random.Random) -> bytes:
    offset = rng.randrange(len(content) + 1)
    return content[:offset] + rng.choice(_OTHER_FILES) + content[offset:]


def _write_number(content: bytes, rng: random.Random) -> bytes:
    """Overwrite bytes near the beginning with a huge, odd or zero number, such as a size."""
    form = rng.choice((">I", "<I", ">H", "<H"))
    value = rng.choice(_SIZES) % 2 ** (8 * struct.calcsize(form))
    offset = rng.randrange(min(len(content), 120) + 1)
    number = struct.pack(form, value)
    return content[:offset] + number + content[offset + len(number) :]


def _inconsistent_png(_: bytes, rng: random.Random) -> bytes:
    """Return a PNG with right checksums and a header that does not fit its data."""
    depth, colours = rng.choice((1, 2, 4, 8, 16, 32)), rng.choice((0, 2, 3, 4, 6, 9))
    width, height = (rng.choice((*_SIZES, 20, 3000, 4999)) for _ in range(2))
    header = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, rng.choice((0, 1)))
    data = zlib.compress(bytes(rng.choice((0, 100, 100_000))))
    text = rng.choice((b"", _chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**7)))))
    extra = rng.choice((b"", _chunk(b"tRNS", b"\0"), _chunk(b"eXIf", b"MM\0*" + b"\xff" * 30)))
    parts = (_chunk(b"IHDR", header), text, extra, _chunk(b"IDAT", data), _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


def _noise(_: bytes, rng: random.Random) -> bytes:
    return rng.randbytes(rng.randrange(300))


_DamageFunction = Callable[[bytes, random.Random], bytes]
_DAMAGES: tuple[_DamageFunction, ...] = (
    _flip_bits, _flip_bits, _flip_header, _flip_header, _truncate, _splice, _repeat, _drop, _append,
    _insert, _write_number, _write_number, _inconsistent_png, _noise,
)  # fmt: skip
