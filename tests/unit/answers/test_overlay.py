"""The overlay shows each mask in its colour and stays legible for any picture and text."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from flmm.answers.overlay import (
    LEGEND_WIDTH_RANGE,
    MAX_OVERLAY_PIXELS,
    MIN_LONGER_SIDE,
    draw_overlay,
)
from flmm.answers.palette import PHRASE_COLOURS, contrasting_text_colour, phrase_colour, to_hex

GREY = (128, 128, 128)


@dataclass(frozen=True)
class MarkedPhrase:
    text: str
    start: int
    end: int
    mask: NDArray[np.bool_]

    @property
    def area(self) -> int:
        return int(self.mask.sum())


def mark_phrase(text: str, word: str, mask: NDArray[np.bool_]) -> MarkedPhrase:
    start = text.index(word)
    return MarkedPhrase(word, start, start + len(word), mask)


def pixels(image: Image.Image) -> NDArray[np.int64]:
    return np.asarray(image).astype(np.int64)


def disc(height: int, width: int, y: int, x: int, radius: int) -> NDArray[np.bool_]:
    ys, xs = np.mgrid[:height, :width]
    return np.asarray(np.hypot(ys - y, xs - x) < radius)


def test_fill_and_contour_are_where_the_mask_is() -> None:
    picture = Image.new("RGB", (900, 800), GREY)
    mask = disc(800, 900, 300, 300, 200)
    sheet = pixels(draw_overlay(picture, "a disc", [mark_phrase("a disc", "a disc", mask)]))
    shown = sheet[:800]
    assert np.array_equal(shown[700, 800], GREY)
    changed = (shown != 128).any(axis=2)
    assert not changed[~disc(800, 900, 300, 300, 206)].any()
    assert changed[disc(800, 900, 300, 300, 196)].all()
    colour = np.array(phrase_colour(0))
    at_edge = np.abs(shown[300, 490:510] - colour).sum(axis=1).min()
    inside = np.abs(shown[300, 400] - (128 + 0.4 * (colour - 128))).max()
    assert at_edge <= 30
    assert inside <= 1


def test_small_masks_are_drawn_over_large_ones() -> None:
    picture = Image.new("RGB", (800, 800), GREY)
    text = "dot ground"
    small, large = disc(800, 800, 400, 400, 60), np.ones((800, 800), dtype=np.bool_)
    for words in (("dot", "ground"), ("ground", "dot")):
        phrases = [mark_phrase(text, word, small if word == "dot" else large) for word in words]
        sheet = pixels(draw_overlay(picture, text, phrases))
        edge = sheet[400, 336:346]
        colour = phrase_colour(words.index("dot"))
        assert np.abs(edge - np.array(colour)).sum(axis=1).min() <= 40


@pytest.mark.parametrize("size", [(1, 1), (40, 30), (4000, 20), (20, 4000), (384, 384)])
def test_legend_is_legible_at_any_picture_shape(size: tuple[int, int]) -> None:
    picture = Image.new("RGB", size, GREY)
    mask = np.ones((size[1], size[0]), dtype=np.bool_)
    sheet = draw_overlay(picture, "all of it", [mark_phrase("all of it", "all of it", mask)])
    assert sheet.width >= LEGEND_WIDTH_RANGE[0]
    assert max(sheet.size) >= MIN_LONGER_SIDE
    # The legend's text is there: dark letters on the light panel, beside or below the picture.
    below = size[1] <= 1.5 * size[0]
    panel = pixels(sheet)[-60:] if below else pixels(sheet)[:, -700:]
    assert (panel.max(axis=2) < 80).sum() > 50


def test_mask_of_one_pixel_gets_a_badge() -> None:
    mask = np.zeros((2000, 3000), dtype=np.bool_)
    mask[1000, 1500] = True
    sheet = pixels(
        draw_overlay(Image.new("RGB", (3000, 2000), GREY), "a", [MarkedPhrase("a", 0, 1, mask)])
    )
    ys, xs = np.nonzero((sheet[:1290] != 128).any(axis=2))
    assert abs(ys.mean() - 645) < 20
    assert abs(xs.mean() - 968) < 20


def test_large_picture_is_reduced() -> None:
    picture = Image.new("RGB", (3000, 2000), GREY)
    sheet = draw_overlay(picture, "", [])
    assert sheet.width * (sheet.width * 2 // 3) <= MAX_OVERLAY_PIXELS * 1.01


def test_small_picture_keeps_its_colours() -> None:
    sheet = pixels(draw_overlay(Image.new("RGB", (3, 2), (9, 99, 199)), "nothing", []))
    assert np.abs(sheet[:480, :720] - np.array((9, 99, 199))).max() <= 1


@pytest.mark.parametrize(
    "text",
    [
        "东西 🐱 naïve é עברית \u202e \ud800 \x00\x07\t",
        "word\r\nanother\n\n\nlines",
        "x" * 3000,
        "many words " * 200,
        "",
        "   ",
    ],
)
def test_any_text_is_drawn(text: str) -> None:
    mask = np.ones((30, 30), dtype=np.bool_)
    phrases = [MarkedPhrase(text, 0, len(text), mask), MarkedPhrase(text[:1], 0, 1, ~mask)]
    sheet = draw_overlay(Image.new("RGB", (30, 30)), text, phrases)
    assert sheet.width == 720


def test_each_of_many_phrases_is_in_the_legend() -> None:
    text = " ".join(f"thing{number}" for number in range(40))
    phrases = [
        mark_phrase(text, f"thing{number}", disc(200, 200, 5 * number, 100, 9))
        for number in range(40)
    ]
    few = draw_overlay(Image.new("RGB", (200, 200)), text, phrases[:3])
    many = draw_overlay(Image.new("RGB", (200, 200)), text, phrases)
    assert many.height > few.height + 100
    # The last phrase's colour is in the legend's last row.
    last = pixels(many)[-80:].reshape(-1, 3)
    assert (np.abs(last - np.array(phrase_colour(39))).sum(axis=1) < 6).any()


def test_overlapping_phrases_are_drawn() -> None:
    mask = np.ones((20, 20), dtype=np.bool_)
    phrases = [MarkedPhrase("a red cat", 0, 9, mask), MarkedPhrase("cat", 6, 9, mask)]
    assert draw_overlay(Image.new("RGB", (20, 20)), "a red cat", phrases).height > 720


def test_picture_is_not_modified() -> None:
    picture = Image.new("RGB", (800, 700), GREY)
    draw_overlay(picture, "all", [mark_phrase("all", "all", np.ones((700, 800), dtype=np.bool_))])
    assert (pixels(picture) == 128).all()


def test_colours_differ_for_people_who_confuse_red_and_green() -> None:
    """The matrices are those of deuteranopia and protanopia in Machado et al. (2009)."""
    vision_matrices = (
        np.eye(3),
        np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]),
        np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]),
    )
    linear = (np.array(PHRASE_COLOURS) / 255) ** 2.2
    for matrix in vision_matrices:
        perceived = np.clip(linear @ matrix.T, 0, 1) ** (1 / 2.2) * 255
        for first, second in combinations(perceived, 2):
            assert np.linalg.norm(first - second) > 30


def test_phrase_colours_differ_and_text_contrasts() -> None:
    assert phrase_colour(0) == PHRASE_COLOURS[0]
    assert len({phrase_colour(index) for index in range(3 * len(PHRASE_COLOURS))}) == 3 * len(
        PHRASE_COLOURS
    )
    assert phrase_colour(10_000)
    assert to_hex((0, 17, 255)) == "#0011ff"
    assert contrasting_text_colour((240, 228, 66)) == (20, 20, 22)
    assert contrasting_text_colour((0, 0, 90)) == (255, 255, 255)
