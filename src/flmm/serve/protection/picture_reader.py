"""Pictures as clients send them: data URLs, files, and URLs of allowed hosts."""

import binascii
from dataclasses import dataclass

from PIL import Image

from flmm.errors import InputError
from flmm.pictures.reading import longest_side, open_picture, read_picture
from flmm.serve.errors import Problem
from flmm.serve.protection.remote_pictures import fetch
from flmm.serve.settings import ServerSettings

KINDS = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP", "image/gif": "GIF"}
"""The media types that are taken, and Pillow's names of them."""

# With which other files begin that a program may find behind a picture.
_OTHERS = (
    b"PK\x03\x04", b"PK\x05\x06", b"%PDF-", b"Rar!\x1a\x07", b"7z\xbc\xaf\x27\x1c", b"\x7fELF",
    b"<html", b"<script", b"<svg", b"<?php", b"<!doctype",
)  # fmt: skip


@dataclass(frozen=True)
class PictureReader:
    """Reads what clients send, within the server's limits."""

    settings: ServerSettings

    def from_url(self, url: str, param: str) -> Image.Image:
        """The picture of a data URL, or of an allowed host.

        Raises:
            Problem: it is neither, or no picture that is taken.
        """
        if url[:5].lower() != "data:":
            limit = self.settings.limits.body_bytes
            kind, content = fetch(url, self.settings.media_domains, limit, param)
            return self.from_bytes(content, kind, param)
        header, comma, encoded = url[5:].partition(",")
        kind, _, encoding = header.lower().partition(";")
        if not comma or encoding != "base64":
            raise Problem(400, "invalid_image_url", "the data URL is not data:TYPE;base64,…", param)
        try:
            content = binascii.a2b_base64(encoded, strict_mode=True)
        except (binascii.Error, ValueError) as error:
            raise Problem(
                400, "invalid_base64", f"the data URL's base64 is broken ({error})", param
            ) from error
        return self.from_bytes(content, kind, param)

    def from_bytes(self, content: bytes, kind: str, param: str) -> Image.Image:
        """The picture in a file of that media type.

        Raises:
            Problem: the type is not taken, or the content is something else, too large or damaged.
        """
        if kind not in KINDS:
            raise Problem(
                415,
                "unsupported_media_type",
                f"the picture's type is {kind[:50]!r}; send one of {', '.join(KINDS)}",
                param,
            )
        try:
            opened = open_picture(content, (KINDS[kind],))
            self._check_size(opened, param)
            if (other := _other_file(content, KINDS[kind])) is not None:
                raise Problem(
                    400,
                    "not_only_a_picture",
                    f"the picture is followed by another file ({other}); send the picture alone",
                    param,
                )
            return read_picture(opened)
        except InputError as error:
            raise Problem(400, "invalid_image", str(error), param) from error

    def _check_size(self, picture: Image.Image, param: str) -> None:
        width, height = picture.size
        most = self.settings.limits.pixels
        longest = longest_side(most)
        wish = None
        if width * height > most:
            wish = f"one of at most {most}"
        elif max(width, height) > longest:
            wish = f"one with sides of at most {longest}"
        if wish is not None:
            raise Problem(
                400,
                "image_too_large",
                f"the picture has {width} x {height} pixels; send {wish}",
                param,
            )


def _sniffed(content: bytes) -> str:
    """The media type by a file's first bytes."""
    signs = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    found = [kind for sign, kind in signs.items() if content.startswith(sign)]
    return found[0] if found else next(iter(KINDS))


def _other_file(content: bytes, kind: str) -> str | None:
    """What stands behind the picture's end and is no part of it."""
    end = _end(content, kind)
    tail = content[end:]
    if kind != "JPEG":
        return f"{len(tail)} bytes" if tail.strip(b"\0") else None
    # Cameras write depth maps and small films behind their JPEGs.
    lower = tail.lower()
    found = next((sign for sign in _OTHERS if sign.lower() in lower), None)
    return None if found is None else repr(found.decode("latin-1"))


def _end(content: bytes, kind: str) -> int:
    """Where the picture ends, in bytes."""
    if kind == "PNG":
        return _after(content, b"IEND", 8)
    if kind == "WEBP":
        length = int.from_bytes(content[4:8], "little")
        return 8 + length + length % 2
    if kind == "GIF":
        return _end_of_gif(content)
    return _after(content, b"\xff\xd9", 2)


def _after(content: bytes, sign: bytes, length: int) -> int:
    at = content.find(sign)
    return len(content) if at < 0 else at + length


def _end_of_gif(content: bytes) -> int:
    """GIF89a: header, blocks of sub-blocks, and a trailer."""
    at = 13 + _colours(content[10:11])
    while at < len(content):
        sign = content[at]
        if sign == 0x3B:
            return at + 1
        if sign == 0x2C:
            at += 10 + _colours(content[at + 9 : at + 10]) + 1
        elif sign == 0x21:
            at += 2
        else:
            return at
        while at < len(content) and content[at]:
            at += content[at] + 1
        at += 1
    return len(content)


def _colours(flags: bytes) -> int:
    """Bytes of a GIF's table of colours."""
    return 3 * 2 ** ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0
