"""Where image tokens lie is found out, as the families' own files know it."""

import dataclasses
from collections.abc import Mapping

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from flmm.lmm.auto import list_families, load_adapter_class
from flmm.lmm.generic import layouts, token_pixels
from flmm.lmm.generic.adapter import GenericAdapter
from flmm.lmm.generic.pixel_sources import find_pixel_sources
from flmm.lmm.generic.processor import build_processor
from flmm.types import ImageGeometry, Size

SETTINGS: Mapping[str, Mapping[str, object]] = {
    model_type: {
        "patch_size": 4,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
    }
    for model_type in ("llava", "llava_next")
}
FAMILIES = (
    "llava", "llava_next", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "glm4v", "glm46v"
)  # fmt: skip


def corners(geometry: ImageGeometry) -> Tensor:
    """The corners of the grid in fractions of the picture."""
    return torch.tensor(
        [
            (edge - offset) / resized
            for offset, resized, canvas in zip(
                geometry.offset, geometry.resized, geometry.canvas, strict=True
            )
            for edge in (0, canvas)
        ]
    )


@pytest.mark.parametrize("model_type", FAMILIES)
def test_layouts_are_those_of_the_family_file(model_type: str) -> None:
    (family,) = [family for family in list_families() if model_type in family.model_types]
    own = load_adapter_class(family).build_tiny()
    processor_class = PROCESSOR_MAPPING[type(own.model.config)]
    assert isinstance(processor_class, type)
    processor = build_processor(
        processor_class, own.image_processor, own.tokenizer, dict(SETTINGS.get(model_type, {}))
    )
    generic = GenericAdapter(own.model, processor, "generic")
    assert generic.views == own.views
    # LLaVA-NeXT leaves nothing of narrow pictures.
    small = ((1, 1), (16, 16)) if model_type == "llava_next" else ((1, 8), (150, 1))
    for width, height in ((90, 60), (50, 120), (300, 100), (33, 97), *small):
        prompts = [
            adapter.build_prompt(Image.new("RGB", (width, height)), "what?")
            for adapter in (generic, own)
        ]
        for found, expected in zip(*(prompt.picture_views[0] for prompt in prompts), strict=True):
            assert found.token_positions.equal(expected.token_positions)
            cell = 1 / torch.tensor(expected.geometry.grid).max()
            torch.testing.assert_close(
                corners(found.geometry), corners(expected.geometry), rtol=0, atol=0.3 * float(cell)
            )
        for name in ("input_ids", "mm_token_type_ids"):
            if name in prompts[1].inputs:
                assert prompts[0].inputs[name].equal(prompts[1].inputs[name])


def process_cropped(picture: Image.Image) -> Tensor:
    images = CLIPImageProcessorPil(
        size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}
    )
    pixels: Tensor = images(picture, return_tensors="pt")["pixel_values"]
    return pixels


@pytest.mark.parametrize("size", [(100, 50), (50, 4000), (40, 40)])
def test_sources_of_a_centre_crop(size: Size) -> None:
    sources = find_pixel_sources(process_cropped, size)
    assert sources is not None
    for places, length in ((sources.y, size[0]), (sources.x, size[1])):
        shown = 32 / 40 * min(size) / length
        first, last = places.aminmax()
        assert float(first) == pytest.approx(0.5 - shown / 2, abs=shown / 20)
        assert float(last) == pytest.approx(0.5 + shown / 2, abs=shown / 20)
        assert not places.isnan().any()


def test_sources_of_padding_are_nan() -> None:
    def process(picture: Image.Image) -> Tensor:
        padded = Image.new("RGB", (40, 40), (122, 116, 104))
        padded.paste(picture.resize((40, 20)), (0, 10))
        return torch.tensor(list(padded.tobytes())).reshape(40, 40, 3)

    sources = find_pixel_sources(process, (25, 50))
    assert sources is not None
    assert sources.x[:10].isnan().all()
    assert sources.x[30:].isnan().all()
    assert not sources.x[10:30].isnan().any()


def test_colours_that_are_inverted_in_part_are_refused() -> None:
    def process(picture: Image.Image) -> Tensor:
        values = torch.tensor(list(picture.tobytes())).float()
        return (values - 100) ** 2

    assert find_pixel_sources(process, (20, 30)) is None


@pytest.fixture
def mirrored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Propose only an arrangement of a tiny model's tokens that is wrong."""
    real = token_pixels.ARRANGEMENTS["blocks of canvases"]

    def mirror(*arguments: object) -> object:
        found = real(*arguments)  # type: ignore[arg-type]
        return None if found is None else dataclasses.replace(found, indices=found.indices.flip(0))

    monkeypatch.setattr(layouts, "ARRANGEMENTS", {"mirrored": mirror})


@pytest.mark.usefixtures("mirrored")
def test_a_layout_that_the_vision_tower_does_not_agree_with_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tiny = GenericAdapter.build_tiny()
    for other in ("read_token_pixels", "place_overlapping_tokens"):
        monkeypatch.setattr(layouts, other, lambda *_: None)
    mirrored = GenericAdapter(tiny.model, tiny.processor, "mirrored")
    assert mirrored.placeless_reason is not None
    assert "no single place for each image token" in mirrored.placeless_reason
    assert mirrored.build_prompt(Image.new("RGB", (60, 50)), "what?").picture_views == ((),)


@pytest.mark.usefixtures("mirrored")
def test_an_arrangement_that_nobody_proposes_is_read_from_the_vision_tower() -> None:
    tiny = GenericAdapter.build_tiny()
    (view,) = tiny.build_prompt(Image.new("RGB", (60, 50)), "what?").picture_views[0]
    assert view.token_positions.equal(torch.arange(64).reshape(8, 8) + view.token_positions[0, 0])


def test_another_picture_of_a_known_size_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = GenericAdapter.build_tiny()
    tiny.build_prompt(Image.new("RGB", (60, 50)), "what?")
    monkeypatch.setattr(layouts, "find_pixel_sources", None)
    monkeypatch.setattr(tiny.model.base_model, "get_image_features", None)
    prompt = tiny.build_prompt(Image.new("RGB", (60, 50), "red"), "what?")
    assert prompt.picture_views[0][0].geometry.grid == (8, 8)
