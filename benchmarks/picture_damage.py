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


def damaged(number: int) -> tuple[bytes, str]:
    """A file's content, and the media type that is said of it."""
    chance = random.Random(number)
    kind = chance.choice(KINDS)
    content = _made(kind, chance.choice(_MODES[kind]), chance.randrange(4))
    for _ in range(chance.choice((0, 1, 1, 1, 2, 3))):
        content = chance.choice(_DAMAGES)(content, chance)
    if chance.random() < 0.03:
        kind = chance.choice(KINDS)
    return content, f"image/{kind.lower()}"


def whole_png() -> bytes:
    """One that nothing is wrong with."""
    return _made("PNG", "RGB", 0)


@cache
def _made(kind: str, mode: str, oddity: int) -> bytes:
    """A picture that is whole."""
    picture = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (20, 28, 3), dtype=np.uint8)
    )
    shown = Image.new(mode, (28, 20), 999) if mode == "I;16" else picture.convert(mode)
    content = io.BytesIO()
    others: dict[str, object] = {}
    if oddity == 1 and mode != "CMYK":
        others = {"save_all": True, "append_images": [shown.rotate(90), shown], "duration": 40}
        others = {} if kind == "JPEG" else others
    elif oddity == 2:
        exif = Image.Exif()
        exif[0x0112] = 6
        exif[0x010E] = "x" * 300
        others = {} if kind == "GIF" else {"exif": exif.tobytes()}
    elif oddity == 3:
        others = {"icc_profile": bytes(range(256)) * 3}
    shown.save(content, kind, **others)
    return content.getvalue()


def _flip_bits(content: bytes, chance: random.Random) -> bytes:
    flipped = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 5, 40)) if flipped else 0):
        flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
    return bytes(flipped)


def _flip_header(content: bytes, chance: random.Random) -> bytes:
    return _flip_bits(content[:64], chance) + content[64:]


def _cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content) + 1)]


def _splice(content: bytes, chance: random.Random) -> bytes:
    """The beginning of another picture before the rest of this one."""
    kind = chance.choice(KINDS)
    other = _made(kind, chance.choice(_MODES[kind]), chance.randrange(4))
    at = chance.randrange(min(len(content), 200) + 1)
    return other[:at] + content[at:]


def _repeat(content: bytes, chance: random.Random) -> bytes:
    first, second = sorted(chance.randrange(len(content) + 1) for _ in range(2))
    return content[:second] + content[first:second] * chance.randint(1, 8) + content[second:]


def _drop(content: bytes, chance: random.Random) -> bytes:
    first = chance.randrange(len(content) + 1)
    return content[:first] + content[first + chance.randint(1, 64) :]


def _append(content: bytes, chance: random.Random) -> bytes:
    return content + chance.choice(_OTHER_FILES) + chance.randbytes(chance.randrange(50))


def _insert(content: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(content) + 1)
    return content[:at] + chance.choice(_OTHER_FILES) + content[at:]


def _write_number(content: bytes, chance: random.Random) -> bytes:
    """A huge, odd or empty size somewhere near the beginning."""
    form = chance.choice((">I", "<I", ">H", "<H"))
    value = chance.choice(_SIZES) % 2 ** (8 * struct.calcsize(form))
    at = chance.randrange(min(len(content), 120) + 1)
    written = struct.pack(form, value)
    return content[:at] + written + content[at + len(written) :]


def _lying_png(_: bytes, chance: random.Random) -> bytes:
    """A PNG whose checks are right and whose header is not."""
    depth, colours = chance.choice((1, 2, 4, 8, 16, 32)), chance.choice((0, 2, 3, 4, 6, 9))
    width, height = (chance.choice((*_SIZES, 20, 3000, 4999)) for _ in range(2))
    header = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, chance.choice((0, 1)))
    data = zlib.compress(bytes(chance.choice((0, 100, 100_000))))
    text = chance.choice((b"", _chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**7)))))
    extra = chance.choice((b"", _chunk(b"tRNS", b"\0"), _chunk(b"eXIf", b"MM\0*" + b"\xff" * 30)))
    parts = (_chunk(b"IHDR", header), text, extra, _chunk(b"IDAT", data), _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


def _noise(_: bytes, chance: random.Random) -> bytes:
    return chance.randbytes(chance.randrange(300))


_Damage = Callable[[bytes, random.Random], bytes]
_DAMAGES: tuple[_Damage, ...] = (
    _flip_bits, _flip_bits, _flip_header, _flip_header, _cut, _splice, _repeat, _drop, _append,
    _insert, _write_number, _write_number, _lying_png, _noise,
)  # fmt: skip
