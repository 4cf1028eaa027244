"""Pictures as clients send them: data URLs, files, and URLs of allowed hosts."""

import binascii
from dataclasses import dataclass

from PIL import Image

from flmm.errors import InputError
from flmm.pictures.reading import max_side, open_picture, read_picture
from flmm.serve.errors import APIError
from flmm.serve.protection.remote_pictures import fetch
from flmm.serve.settings import ServerSettings

PILLOW_FORMATS = {
    "image/png": "PNG",
    "image/jpeg": "JPEG",
    "image/webp": "WEBP",
    "image/gif": "GIF",
}
"""The media types that are taken, and Pillow's names of them."""

# With which other files begin that a program may find behind a picture.
_FOREIGN_SIGNATURES = (
    b"PK\x03\x04", b"PK\x05\x06", b"%PDF-", b"Rar!\x1a\x07", b"7z\xbc\xaf\x27\x1c", b"\x7fELF",
    b"<html", b"<script", b"<svg", b"<?php", b"<!doctype",
)  # fmt: skip


@dataclass(frozen=True)
class PictureReader:
    """Reads what clients send, within the server's limits."""

    settings: ServerSettings

    def read_url(self, url: str, param: str) -> Image.Image:
        """The picture of a data URL, or of an allowed host.

        Raises:
            Problem: it is neither, or no picture that is taken.
        """
        if url[:5].lower() != "data:":
            limit = self.settings.limits.body_bytes
            kind, content = fetch(url, self.settings.media_domains, limit, param)
            return self.read_bytes(content, kind, param)
        header, comma, encoded = url[5:].partition(",")
        kind, _, encoding = header.lower().partition(";")
        if not comma or encoding != "base64":
            raise APIError(
                400, "invalid_image_url", "the data URL is not data:TYPE;base64,…", param
            )
        try:
            content = binascii.a2b_base64(encoded, strict_mode=True)
        except (binascii.Error, ValueError) as error:
            raise APIError(
                400, "invalid_base64", f"the data URL's base64 is broken ({error})", param
            ) from error
        return self.read_bytes(content, kind, param)

    def read_bytes(self, content: bytes, media_type: str, param: str) -> Image.Image:
        """The picture in a file of that media type.

        Raises:
            Problem: the type is not taken, or the content is something else, too large or damaged.
        """
        if media_type not in PILLOW_FORMATS:
            raise APIError(
                415,
                "unsupported_media_type",
                f"the picture's type is {media_type[:50]!r};"
                f" send one of {', '.join(PILLOW_FORMATS)}",
                param,
            )
        try:
            opened = open_picture(content, (PILLOW_FORMATS[media_type],))
            self._check_size(opened, param)
            if (other := _find_trailing_file(content, PILLOW_FORMATS[media_type])) is not None:
                raise APIError(
                    400,
                    "not_only_a_picture",
                    f"the picture is followed by another file ({other}); send the picture alone",
                    param,
                )
            return read_picture(opened)
        except InputError as error:
            raise APIError(400, "invalid_image", str(error), param) from error

    def _check_size(self, picture: Image.Image, param: str) -> None:
        width, height = picture.size
        most = self.settings.limits.pixels
        longest = max_side(most)
        wish = None
        if width * height > most:
            wish = f"one of at most {most}"
        elif max(width, height) > longest:
            wish = f"one with sides of at most {longest}"
        if wish is not None:
            raise APIError(
                400,
                "image_too_large",
                f"the picture has {width} x {height} pixels; send {wish}",
                param,
            )


def guess_media_type(content: bytes) -> str:
    """The media type by a file's first bytes."""
    signs = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    found = [kind for sign, kind in signs.items() if content.startswith(sign)]
    return found[0] if found else next(iter(PILLOW_FORMATS))


def _find_trailing_file(content: bytes, pillow_format: str) -> str | None:
    """What stands behind the picture's end and is no part of it."""
    end = _find_end(content, pillow_format)
    tail = content[end:]
    if pillow_format != "JPEG":
        return f"{len(tail)} bytes" if tail.strip(b"\0") else None
    # Cameras write depth maps and small films behind their JPEGs.
    lower = tail.lower()
    found = next((sign for sign in _FOREIGN_SIGNATURES if sign.lower() in lower), None)
    return None if found is None else repr(found.decode("latin-1"))


def _find_end(content: bytes, pillow_format: str) -> int:
    """Where the picture ends, in bytes."""
    if pillow_format == "PNG":
        return _find_after(content, b"IEND", 8)
    if pillow_format == "WEBP":
        length = int.from_bytes(content[4:8], "little")
        return 8 + length + length % 2
    if pillow_format == "GIF":
        return _find_gif_end(content)
    return _find_after(content, b"\xff\xd9", 2)


def _find_after(content: bytes, marker: bytes, length: int) -> int:
    at = content.find(marker)
    return len(content) if at < 0 else at + length


def _find_gif_end(content: bytes) -> int:
    """GIF89a: header, blocks of sub-blocks, and a trailer."""
    at = 13 + _colour_table_bytes(content[10:11])
    while at < len(content):
        sign = content[at]
        if sign == 0x3B:
            return at + 1
        if sign == 0x2C:
            at += 10 + _colour_table_bytes(content[at + 9 : at + 10]) + 1
        elif sign == 0x21:
            at += 2
        else:
            return at
        while at < len(content) and content[at]:
            at += content[at] + 1
        at += 1
    return len(content)


def _colour_table_bytes(flags: bytes) -> int:
    """Bytes of a GIF's table of colours."""
    return 3 * 2 ** ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0
