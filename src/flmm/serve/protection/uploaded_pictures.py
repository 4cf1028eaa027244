"""Reading of pictures that clients send: data URLs, files, and URLs of allowed hosts."""

import binascii
from dataclasses import dataclass

from PIL import Image

from flmm.errors import InputError
from flmm.pictures.reading import max_side, open_picture, read_picture
from flmm.serve.errors import APIError
from flmm.serve.protection.remote_pictures import fetch
from flmm.serve.settings import ServerSettings

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
"""The accepted formats, by Pillow's names."""
_UNKNOWN_TYPES = ("", "application/octet-stream")
"""What curl and other clients send if they do not know a file's type."""

# First bytes of other files, which a program may find behind a picture.
_FOREIGN_SIGNATURES = (
    b"PK\x03\x04", b"PK\x05\x06", b"%PDF-", b"Rar!\x1a\x07", b"7z\xbc\xaf\x27\x1c", b"\x7fELF",
    b"<html", b"<script", b"<svg", b"<?php", b"<!doctype",
)  # fmt: skip


@dataclass(frozen=True)
class PictureReader:
    """Reads pictures within the server's limits."""

    settings: ServerSettings

    def read_url(self, url: str, param: str) -> Image.Image:
        """Return the picture of a data URL, or of an allowed host's URL.

        Raises:
            APIError: it is neither, or not a picture of an accepted type.
        """
        if url[:5].lower() != "data:":
            limit = self.settings.limits.body_bytes
            media_type, content = fetch(url, self.settings.media_domains, limit, param)
            return self.read_bytes(content, media_type, param)
        header, comma, encoded = url[5:].partition(",")
        media_type, *_, encoding = header.lower().split(";") if ";" in header else ("", "")
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
        return self.read_bytes(content, media_type, param)

    def read_bytes(self, content: bytes, media_type: str, param: str) -> Image.Image:
        """Return the picture in a file, whose format its content tells.

        Of its media type it is only asked that it is a picture's, or unknown: clients write
        "image/jpg", or another picture's.

        Raises:
            APIError: the type is no picture's, or the content is of no accepted format, too large
                or damaged.
        """
        if not media_type.startswith("image/") and media_type not in _UNKNOWN_TYPES:
            raise APIError(
                415,
                "unsupported_media_type",
                f"the picture's type is {media_type[:50]!r}; send one of {', '.join(_FORMATS)}",
                param,
            )
        try:
            opened = open_picture(content, _FORMATS)
            self._check_size(opened, param)
            assert opened.format is not None
            if (other := _find_trailing_file(content, opened.format)) is not None:
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
        max_pixels = self.settings.limits.pixels
        longest = max_side(max_pixels)
        remedy = None
        if width * height > max_pixels:
            remedy = f"one of at most {max_pixels}"
        elif max(width, height) > longest:
            remedy = f"one with sides of at most {longest}"
        if remedy is not None:
            raise APIError(
                400,
                "image_too_large",
                f"the picture has {width} x {height} pixels; send {remedy}",
                param,
            )


def _find_trailing_file(content: bytes, pillow_format: str) -> str | None:
    """Return a name for foreign data behind the picture's end; None if there is none."""
    end = _find_end(content, pillow_format)
    tail = content[end:]
    if pillow_format != "JPEG":
        return f"{len(tail)} bytes" if tail.strip(b"\0") else None
    # Cameras write depth maps and small films behind their JPEGs.
    lower = tail.lower()
    signature = next((first for first in _FOREIGN_SIGNATURES if first.lower() in lower), None)
    return None if signature is None else repr(signature.decode("latin-1"))


def _find_end(content: bytes, pillow_format: str) -> int:
    """Return the offset of the picture's end."""
    if pillow_format == "PNG":
        return _find_after(content, b"IEND", 8)
    if pillow_format == "WEBP":
        length = int.from_bytes(content[4:8], "little")
        return 8 + length + length % 2
    if pillow_format == "GIF":
        return _find_gif_end(content)
    return _find_after(content, b"\xff\xd9", 2)


def _find_after(content: bytes, marker: bytes, length: int) -> int:
    offset = content.find(marker)
    return len(content) if offset < 0 else offset + length


def _find_gif_end(content: bytes) -> int:
    """Return the end of a GIF89a: header, blocks of sub-blocks, and a trailer."""
    offset = 13 + _colour_table_bytes(content[10:11])
    while offset < len(content):
        block_type = content[offset]
        if block_type == 0x3B:
            return offset + 1
        if block_type == 0x2C:
            offset += 10 + _colour_table_bytes(content[offset + 9 : offset + 10]) + 1
        elif block_type == 0x21:
            offset += 2
        else:
            return offset
        while offset < len(content) and content[offset]:
            offset += content[offset] + 1
        offset += 1
    return len(content)


def _colour_table_bytes(flags: bytes) -> int:
    """Return the size of a GIF's colour table."""
    return 3 * 2 ** ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0
