"""Pictures that are damaged, odd, or lie about themselves; a number always gives the same one."""

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
    """A file's content, and the media type that is said of it."""
    chance = random.Random(seed)
    kind = chance.choice(KINDS)
    content = _encode_picture(kind, chance.choice(_MODES[kind]), chance.randrange(4))
    for _ in range(chance.choice((0, 1, 1, 1, 2, 3))):
        content = chance.choice(_DAMAGES)(content, chance)
    if chance.random() < 0.03:
        kind = chance.choice(KINDS)
    return content, f"image/{kind.lower()}"


def valid_png() -> bytes:
    """One that nothing is wrong with."""
    return _encode_picture("PNG", "RGB", 0)


@cache
def _encode_picture(kind: str, mode: str, variant: int) -> bytes:
    """A picture that is whole."""
    picture = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (20, 28, 3), dtype=np.uint8)
    )
    shown = Image.new(mode, (28, 20), 999) if mode == "I;16" else picture.convert(mode)
    content = io.BytesIO()
    others: dict[str, object] = {}
    if variant == 1 and mode != "CMYK":
        others = {"save_all": True, "append_images": [shown.rotate(90), shown], "duration": 40}
        others = {} if kind == "JPEG" else others
    elif variant == 2:
        exif = Image.Exif()
        exif[0x0112] = 6
        exif[0x010E] = "x" * 300
        others = {} if kind == "GIF" else {"exif": exif.tobytes()}
    elif variant == 3:
        others = {"icc_profile": bytes(range(256)) * 3}
    shown.save(content, kind, **others)
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
    """The beginning of another picture before the rest of this one."""
    kind = rng.choice(KINDS)
    other = _encode_picture(kind, rng.choice(_MODES[kind]), rng.randrange(4))
    at = rng.randrange(min(len(content), 200) + 1)
    return other[:at] + content[at:]


def _repeat(content: bytes, rng: random.Random) -> bytes:
    first, second = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    return content[:second] + content[first:second] * rng.randint(1, 8) + content[second:]


def _drop(content: bytes, rng: random.Random) -> bytes:
    first = rng.randrange(len(content) + 1)
    return content[:first] + content[first + rng.randint(1, 64) :]


def _append(content: bytes, rng: random.Random) -> bytes:
    return content + rng.choice(_OTHER_FILES) + rng.randbytes(rng.randrange(50))


def _insert(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content) + 1)
    return content[:at] + rng.choice(_OTHER_FILES) + content[at:]


def _write_number(content: bytes, rng: random.Random) -> bytes:
    """A huge, odd or empty size somewhere near the beginning."""
    form = rng.choice((">I", "<I", ">H", "<H"))
    value = rng.choice(_SIZES) % 2 ** (8 * struct.calcsize(form))
    at = rng.randrange(min(len(content), 120) + 1)
    written = struct.pack(form, value)
    return content[:at] + written + content[at + len(written) :]


def _inconsistent_png(_: bytes, rng: random.Random) -> bytes:
    """A PNG whose checks are right and whose header is not."""
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
