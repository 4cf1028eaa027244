"""Reading of picture files in all formats, and of files that are not pictures."""

import gzip
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flmm.errors import InputError
from flmm.pictures.reading import MAX_PIXELS, read_picture

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def colour(image: Image.Image, x: int = 0, y: int = 0) -> tuple[int, ...]:
    pixel = image.getpixel((x, y))
    assert isinstance(pixel, tuple)
    return tuple(int(value) for value in pixel)


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def error_message(picture: str | Path) -> str:
    with pytest.raises(InputError) as caught:
        read_picture(picture)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("suffix", ["png", "webp", "bmp", "tiff", "gif", "ppm", "tga", "jp2"])
def test_formats_keep_their_pixels(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.new("RGB", (5, 3), RED).save(path, lossless=True)
    picture = read_picture(path)
    assert (picture.mode, picture.size, colour(picture)) == ("RGB", (5, 3), RED)


def test_pil_images_and_arrays_are_copied() -> None:
    image = Image.new("RGB", (4, 2), BLUE)
    picture = read_picture(image)
    picture.putpixel((0, 0), RED)
    assert colour(image) == BLUE
    array = np.zeros((2, 4, 3), dtype=np.uint8)
    array[0, 3] = GREEN
    picture = read_picture(array[:, ::-1])
    assert picture.size == (4, 2)
    assert colour(picture) == GREEN


def test_grey_arrays_and_arrays_with_alpha() -> None:
    grey = np.full((2, 4), 7, dtype=np.uint8)
    for array in (grey, grey[..., None]):
        assert colour(read_picture(array)) == (7, 7, 7)
    with_alpha = np.zeros((2, 4, 4), dtype=np.uint8)
    assert colour(read_picture(with_alpha)) == (255, 255, 255)
    with_alpha[..., 3] = 255
    assert colour(read_picture(with_alpha)) == (0, 0, 0)


def test_bytes_and_file_objects(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (5, 3), RED).save(path)
    content = path.read_bytes()
    with path.open("rb") as opened:
        pictures = [read_picture(given) for given in (content, io.BytesIO(content), opened)]
    assert [(one.size, colour(one)) for one in pictures] == [((5, 3), RED)] * 3
    with pytest.raises(InputError, match="empty"):
        read_picture(b"")
    at_its_end = io.BytesIO(content)
    at_its_end.read()
    assert read_picture(at_its_end).size == (5, 3)
    cut_archive = gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(content)[:-20]))
    with pytest.raises(InputError, match="cannot be read"):
        read_picture(cut_archive)  # type: ignore[arg-type]
    with path.open(encoding="utf-8") as as_text:
        for unreadable in (opened, as_text, io.StringIO("text")):
            with pytest.raises(InputError, match="mode 'rb'"):
                read_picture(unreadable)  # type: ignore[arg-type]


def test_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.new("RGB", (5, 3), RED).save(tmp_path / "a.png")
    assert read_picture("~/a.png").size == (5, 3)
    assert read_picture(Path("~") / "a.png").size == (5, 3)
    for missing in ("~/b.png", "~nobody-of-this-name/a.png"):
        with pytest.raises(InputError, match="no picture"):
            read_picture(missing)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (None, "of type 'NoneType'"),
        (3, "of type 'int'"),
        ([1, 2], "of type 'list'"),
        (torch.zeros(3, 4, 5), "of type 'Tensor'"),
        ("https://example.org/a.png", "is an address"),
        ("data:image/png;base64,AAAA", "is an address"),
    ],
)
def test_other_types_are_refused_in_one_line(given: object, told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        read_picture(given)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(4, dtype=np.uint8),
        np.zeros((3, 4, 5), dtype=np.uint8),
        np.zeros((4, 4, 2), dtype=np.uint8),
        np.zeros((4, 4, 3), dtype=np.float32),
        np.zeros((0, 4, 3), dtype=np.uint8),
    ],
)
def test_other_arrays_are_refused(array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    with pytest.raises(InputError, match=r"give \(H, W, 3\), .* of uint8"):
        read_picture(array)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = Image.new("RGB", (32, 16), WHITE)
    upright.paste(RED, (0, 0, 8, 8))
    # What a camera stores: the upright picture with the inverse of the EXIF rotation.
    stored = {
        1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    (upright if stored is None else upright.transpose(stored)).save(path, exif=exif)
    picture = read_picture(path)
    assert picture.size == (32, 16)
    assert np.array_equal(np.asarray(picture), np.asarray(upright))


def test_transparency_becomes_white(tmp_path: Path) -> None:
    layer = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    layer.putpixel((1, 0), (255, 0, 0, 128))
    layer.save(tmp_path / "alpha.png")
    picture = read_picture(tmp_path / "alpha.png")
    assert colour(picture) == WHITE
    assert colour(picture, 1) == (255, 127, 127)


def test_transparency_of_palettes_and_greys_becomes_white(tmp_path: Path) -> None:
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "palette.png", transparency=0)
    picture = read_picture(tmp_path / "palette.png")
    assert (colour(picture), colour(picture, 1)) == (WHITE, BLUE)
    assert colour(read_picture(Image.new("LA", (1, 1), (0, 0)))) == WHITE


def test_cmyk_pictures(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "ink.tiff")
    assert colour(read_picture(tmp_path / "ink.tiff")) == RED
    Image.new("CMYK", (8, 8), (0, 0, 0, 0)).save(tmp_path / "paper.jpg")
    assert colour(read_picture(tmp_path / "paper.jpg")) == WHITE


@pytest.mark.parametrize(
    ("mode", "suffix"), [("I;16", "png"), ("I;16", "tiff"), ("I", "tiff"), ("I", "pgm")]
)
def test_16_bit_pictures(tmp_path: Path, mode: str, suffix: str) -> None:
    values = np.array([[0, 257 * 100, 65535]], dtype=np.uint16 if mode == "I;16" else np.int32)
    image = Image.fromarray(values)
    assert image.mode == mode
    path = tmp_path / f"deep.{suffix}"
    image.save(path)
    picture = read_picture(path)
    assert [colour(picture, x)[0] for x in range(3)] == [0, 100, 255]


@pytest.mark.parametrize(("values", "white"), [((0.0, 0.4, 1.0), 255), ((0.0, 102.0, 255.0), 255)])
def test_float_pictures(values: tuple[float, ...], white: int) -> None:
    picture = read_picture(Image.fromarray(np.array([values], dtype=np.float32)))
    assert [colour(picture, x)[0] for x in range(3)] == [0, 102, white]


@pytest.mark.parametrize("mode", ["1", "L", "P", "YCbCr", "HSV"])
def test_other_modes(mode: str) -> None:
    assert colour(read_picture(Image.new("RGB", (3, 3), WHITE).convert(mode))) == WHITE


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_first_frame_of_an_animation_is_read(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (6, 4), shade) for shade in (RED, GREEN, BLUE)]
    path = tmp_path / f"moving.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=50)
    picture = read_picture(path)
    assert picture.size == (6, 4)
    assert max(abs(a - b) for a, b in zip(colour(picture), RED, strict=True)) <= 2


@pytest.mark.parametrize("size", [(1, 1), (4000, 20), (20, 4000)])
def test_extreme_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size, GREEN).save(tmp_path / "odd.png")
    assert read_picture(tmp_path / "odd.png").size == size


def test_missing_file_folder_and_empty_file(tmp_path: Path) -> None:
    assert error_message(tmp_path / "none.png") == (
        f"there is no picture '{tmp_path / 'none.png'}'; check the path"
    )
    assert "is a folder; give a picture file" in error_message(str(tmp_path))
    (tmp_path / "empty.png").touch()
    assert "empty.png' is empty (0 bytes)" in error_message(tmp_path / "empty.png")


@pytest.mark.parametrize("name", ["bad\nname.png", "nul\0.png", "x" * 300])
def test_unusual_file_names(tmp_path: Path, name: str) -> None:
    assert name[:3] in error_message(str(tmp_path / name))


@pytest.mark.parametrize(
    "content",
    [b"just words", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"<svg/>", b"\x89PNG"],
)
def test_files_that_are_not_pictures(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "words.png"
    path.write_bytes(content)
    assert error_message(path) == (
        f"'{path}' is not a picture that flmm can read; give a PNG, JPEG, WebP, GIF or TIFF file"
    )


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp", "tiff", "avif"])
@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_truncated_files(tmp_path: Path, suffix: str, kept: float) -> None:
    path = tmp_path / f"short.{suffix}"
    noise(64, 64).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    assert f"short.{suffix}' " in error_message(path)


def test_file_with_damaged_content(tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    noise(64, 64).save(path)
    content = bytearray(path.read_bytes())
    content[200:400] = bytes(200)
    path.write_bytes(bytes(content))
    assert "broken.png' " in error_message(path)


def test_file_without_read_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "secret.png"
    noise(4, 4).save(path)
    monkeypatch.setattr(Image, "open", deny)
    assert error_message(path) == f"'{path}' cannot be read (Permission denied); check the file"


def test_picture_with_a_side_over_the_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "strip.png"
    noise(16_001, 1).save(path)
    assert error_message(path) == (
        f"'{path}' has 16001 x 1 pixels; cut it to sides of at most 16000"
    )
    noise(2, 16_000).save(path)
    assert read_picture(path).size == (2, 16_000)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [9_000, 12_000, 40_000])
def test_decompression_bomb_is_refused_by_its_header(tmp_path: Path, side: int) -> None:
    """The file has a header only, so decoding it would be reported as damage."""
    assert side**2 > MAX_PIXELS
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path = tmp_path / "bomb.png"
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(header)) + b"IHDR" + header)
        file.write(struct.pack(">I", zlib.crc32(b"IHDR" + header)))
        file.write(struct.pack(">I", 4) + b"IDAT" + b"\x78\x9c\x03\x00" + struct.pack(">I", 0))
    message = error_message(path)
    assert f"bomb.png' has {'too many' if side > 13_000 else side}" in message
    assert "64 million pixels" in message
