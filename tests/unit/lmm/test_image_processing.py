"""The geometry of preprocessing steps, compared with what image processors really make."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from transformers.image_processing_backends import PilBackend
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from flmm.errors import InputError
from flmm.lmm.image_processing import PreprocessingSteps
from flmm.types import ImageGeometry

SIZES = [(1, 1), (24, 24), (50, 40), (33, 97), (4000, 20), (20, 4000), (7, 640), (641, 480)]
"""(width, height)."""
CROP = {"height": 24, "width": 24}
WHOLE_PIXELS: dict[str, PilBackend] = {
    "crop": CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size=CROP),
    "narrow crop": CLIPImageProcessorPil(size={"shortest_edge": 31}, crop_size=CROP),
    "crop that pads": CLIPImageProcessorPil(size={"shortest_edge": 15}, crop_size=CROP),
    "crop alone": CLIPImageProcessorPil(do_resize=False, crop_size=CROP),
    "squash": SiglipImageProcessorPil(size={"height": 24, "width": 24}),
    "longest edge": CLIPImageProcessorPil(
        size={"shortest_edge": 12, "longest_edge": 24}, crop_size=CROP
    ),
    "odd crop": CLIPImageProcessorPil(
        size={"shortest_edge": 24}, crop_size={"height": 17, "width": 22}
    ),
}
PADDED = LlavaImageProcessorPil(
    size={"shortest_edge": 24}, crop_size=CROP, do_pad=True, image_mean=[0, 0, 0]
)


def process(processor: PilBackend, picture: Image.Image) -> NDArray[np.float64]:
    """Return the processor's (H, W, 3) canvas."""
    values = processor(picture, return_tensors="np", do_rescale=False, do_normalize=False)
    pixels = values["pixel_values"][0]
    return np.asarray(pixels, dtype=np.float64).transpose(1, 2, 0)


def paste(picture: Image.Image, geometry: ImageGeometry) -> NDArray[np.float64]:
    """Return (H, W, 3): the picture resized and pasted on black as the geometry says."""
    height, width = geometry.resized
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    canvas = Image.new("RGB", (geometry.canvas[1], geometry.canvas[0]))
    canvas.paste(resized, (geometry.offset[1], geometry.offset[0]))
    return np.asarray(canvas, dtype=np.float64)


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("name", WHOLE_PIXELS)
def test_geometry_rebuilds_the_canvas_pixel_by_pixel(name: str, width: int, height: int) -> None:
    picture = noise(width, height)
    steps = PreprocessingSteps.from_image_processor(WHOLE_PIXELS[name])
    if name == "longest edge" and max(width, height) > 24 * min(width, height):
        with pytest.raises(InputError, match="too narrow"):
            steps.compute_geometry((height, width), patch_size=4)
        return
    geometry = steps.compute_geometry((height, width), patch_size=4)
    np.testing.assert_array_equal(paste(picture, geometry), process(WHOLE_PIXELS[name], picture))


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_padded_picture_lies_where_the_geometry_says(width: int, height: int) -> None:
    canvas = process(PADDED, Image.new("RGB", (width, height), (255, 255, 255)))[..., 0]
    geometry = PreprocessingSteps.from_image_processor(PADDED).compute_geometry(
        (height, width), patch_size=4
    )
    for axis in (0, 1):
        weight = canvas.sum(axis=1 - axis)
        centre = (weight * (np.arange(24) + 0.5)).sum() / weight.sum()
        length = (weight / weight.max()).sum()
        assert abs(geometry.offset[axis] + geometry.resized[axis] / 2 - centre) <= 0.51
        assert abs(geometry.resized[axis] - length) <= 1


def test_grid_is_whole_patches() -> None:
    geometry = PreprocessingSteps.from_image_processor(WHOLE_PIXELS["odd crop"]).compute_geometry(
        (40, 50), patch_size=4
    )
    assert geometry.canvas == (17, 22)
    assert geometry.grid == (4, 5)


def test_unknown_padding_is_refused() -> None:
    with pytest.raises(InputError, match="do_pad"):
        PreprocessingSteps.from_image_processor(
            CLIPImageProcessorPil(do_pad=True, pad_size={"height": 30, "width": 30})
        )
