"""A picture that is mostly zero is resized as Pillow does."""

import numpy as np
import pytest
from PIL import Image

from flmm.answers.resizing import resize_nonzero

BOXES = [(0, 0, 1, 1), (99, 149, 100, 150), (40, 37, 61, 90), (0, 0, 100, 150), (5, 0, 6, 150)]


@pytest.mark.parametrize(
    ("size", "resampling"),
    [
        *(((33, 21), one) for one in Image.Resampling),
        ((150, 100), Image.Resampling.BOX),
        ((300, 170), Image.Resampling.BICUBIC),
        ((1, 1), Image.Resampling.BOX),
    ],
)
def test_result_is_pillows(size: tuple[int, int], resampling: Image.Resampling) -> None:
    for top, left, bottom, right in BOXES:
        pixels = np.zeros((100, 150), dtype=np.uint8)
        pixels[top:bottom, left:right] = 255
        expected = Image.fromarray(pixels).resize(size, resampling)
        resized = resize_nonzero(pixels, size, resampling)
        assert resized.mode == expected.mode
        np.testing.assert_allclose(np.asarray(resized), np.asarray(expected), atol=1)


def test_empty_picture_stays_empty() -> None:
    pixels = np.zeros((9, 9), dtype=np.uint8)
    assert not np.asarray(resize_nonzero(pixels, (4, 5), Image.Resampling.BICUBIC)).any()
