"""Polygons are the mask's edges exactly, with holes told apart or reached by a line."""

import numpy as np
import pytest
from mask_shapes import MASK_SHAPES, build_mask, fill_polygons
from numpy.typing import NDArray
from pycocotools import mask as coco
from scipy.ndimage import label

from flmm.answers.polygons import Ring, mask_to_polygons, mask_to_rings


def signed_area(ring: Ring) -> float:
    """Positive for a ring that runs clockwise on the screen."""
    x, y = ring.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2


def fill(rings: list[Ring], mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What is inside an odd number of rings."""
    height, width = mask.shape
    return fill_polygons([ring.ravel().tolist() for ring in rings], (height, width))


def check_mask(mask: NDArray[np.bool_]) -> None:
    polygons = mask_to_polygons(mask)
    parts, count = label(mask)
    assert len(polygons) == count
    for polygon in polygons:
        assert signed_area(polygon.exterior) > 0
        assert all(signed_area(hole) < 0 for hole in polygon.holes)
        part = fill([polygon.exterior, *polygon.holes], mask)
        assert np.array_equal(part, parts == parts[part][0])
    rings = mask_to_rings(mask)
    assert len(rings) == count
    assert np.array_equal(fill(rings, mask), mask)
    assert sum(map(signed_area, rings)) == mask.sum()
    for ring in [*rings, *(polygon.exterior for polygon in polygons)]:
        steps = np.diff(ring, axis=0, append=ring[:1])
        assert ((steps == 0).sum(axis=1) == 1).all(), "sides are not along the edges"
    if count:
        encoded = coco.frPyObjects([ring.ravel().tolist() for ring in rings], *mask.shape)
        assert np.array_equal(coco.decode(coco.merge(encoded)), mask)


@pytest.mark.parametrize("name", MASK_SHAPES)
def test_polygons_are_the_mask(name: str) -> None:
    check_mask(build_mask(name))


@pytest.mark.parametrize("seed", range(60))
def test_polygons_of_noise_are_the_mask(seed: int) -> None:
    generator = np.random.default_rng(seed)
    height, width = generator.integers(1, 14, 2)
    check_mask(generator.random((height, width)) < generator.random())


def test_corners_are_where_a_pixel_has_them() -> None:
    (polygon,) = mask_to_polygons(build_mask("one pixel"))
    assert polygon.exterior.tolist() == [[5, 3], [6, 3], [6, 4], [5, 4]]
    assert polygon.holes == ()
    (polygon,) = mask_to_polygons(build_mask("one pixel")[3:, 5:], left=5, top=3)
    assert polygon.exterior.tolist() == [[5, 3], [6, 3], [6, 4], [5, 4]]


def test_a_hole_belongs_to_the_part_around_it() -> None:
    outer, inner = mask_to_polygons(build_mask("ring in a ring"))
    assert [len(outer.holes), len(inner.holes)] == [1, 1]
    assert outer.holes[0].tolist() == [[14, 1], [1, 1], [1, 10], [14, 10]]
    (polygon,) = mask_to_polygons(build_mask("two holes, one below the other"))
    assert len(polygon.holes) == 2
