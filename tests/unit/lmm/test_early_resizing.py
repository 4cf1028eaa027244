"""A picture that is resized before its image processor gets it makes the very same tensor."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.image_processing_backends import PilBackend
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from flmm.lmm.early_resizing import resize_early

SIZES = [(700, 500), (333, 1001), (901, 600), (900, 900), (640, 41)]
"""(width, height)."""
CROP = {"height": 40, "width": 40}
PROCESSORS: dict[str, PilBackend] = {
    "shortest edge": CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size=CROP),
    "bilinear": CLIPImageProcessorPil(
        size={"shortest_edge": 40}, crop_size=CROP, resample=Image.Resampling.BILINEAR
    ),
    "both edges": CLIPImageProcessorPil(
        size={"shortest_edge": 12, "longest_edge": 300}, do_center_crop=False
    ),
    "square": SiglipImageProcessorPil(size={"height": 40, "width": 40}),
    "oblong": SiglipImageProcessorPil(size={"height": 30, "width": 61}),
    "padded": LlavaImageProcessorPil(size={"shortest_edge": 40}, crop_size=CROP, do_pad=True),
    "padded, oblong": LlavaImageProcessorPil(
        size={"height": 30, "width": 61}, do_center_crop=False, do_pad=True
    ),
    "not padded": LlavaImageProcessorPil(size={"shortest_edge": 40}, crop_size=CROP),
    "patches": Qwen2VLImageProcessorPil(
        patch_size=4, merge_size=2, size={"shortest_edge": 256, "longest_edge": 64 * 256}
    ),
    "tiles": GotOcr2ImageProcessorPil(size={"height": 40, "width": 40}, crop_to_patches=True),
    "as it is": CLIPImageProcessorPil(do_resize=False, crop_size=CROP),
}
UNCHANGED = ("padded, oblong", "tiles", "as it is")
"""These pad or cut the picture by its own shape."""


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("name", PROCESSORS)
def test_the_tensor_is_the_same_bit_by_bit(name: str, width: int, height: int) -> None:
    processor, picture = PROCESSORS[name], noise(width, height)
    resized = resize_early(processor, picture)
    assert (resized is picture) == (name in UNCHANGED)
    expected = processor(picture, return_tensors="pt")
    found = processor(resized, return_tensors="pt")
    assert found.keys() == expected.keys()
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=0, atol=0)


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("size", [(1, 1), (9, 7), (3000, 10)])
def test_what_is_not_shrunk_stays_as_it_is(name: str, size: tuple[int, int]) -> None:
    picture = noise(*size)
    resized = resize_early(PROCESSORS[name], picture)
    assert resized is picture or resized.width * resized.height < size[0] * size[1]
    if max(size) < 10:
        assert resized is picture
