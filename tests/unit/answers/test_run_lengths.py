"""Run lengths are pycocotools' own, and become the same mask again."""

import numpy as np
import pytest
import torch
from mask_shapes import MASK_SHAPES, build_mask
from numpy.typing import NDArray
from pycocotools import mask as coco

from flmm.answers.run_lengths import decode_rle, decode_rle_in_box, encode_rle
from flmm.pictures.geometry import mask_box
from flmm.types import Box


def box_of(mask: NDArray[np.bool_]) -> Box:
    return mask_box(torch.from_numpy(mask)) or (0, 0, 0, 0)


def check_mask(mask: NDArray[np.bool_]) -> None:
    encoded = encode_rle(mask)
    expected = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    assert encoded == {"size": list(mask.shape), "counts": expected["counts"].decode()}
    x0, y0, x1, y1 = box = box_of(mask)
    decoded = decode_rle(encoded, box)
    assert decoded.dtype == np.bool_
    assert decoded.flags.c_contiguous
    assert decoded.flags.writeable
    assert np.array_equal(decoded, mask)
    assert np.array_equal(decode_rle_in_box(encoded, box), mask[y0:y1, x0:x1])
    whole = (0, 0, mask.shape[1], mask.shape[0])
    assert np.array_equal(decode_rle(encoded, whole), mask)


@pytest.mark.parametrize("name", MASK_SHAPES)
def test_masks_come_back(name: str) -> None:
    check_mask(build_mask(name))


@pytest.mark.parametrize("seed", range(100))
def test_noise_comes_back(seed: int) -> None:
    generator = np.random.default_rng(seed)
    height, width = generator.integers(1, 12, 2)
    check_mask(generator.random((height, width)) < generator.random())
