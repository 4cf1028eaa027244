"""Loading of segmenters: checkpoints of videos' models, damaged ones, and what is no SAM."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_head import scramble
from tiny_video_memory import VIDEO_MEMORY
from transformers import (
    EdgeTamVideoConfig,
    EdgeTamVideoModel,
    Sam2VideoConfig,
    Sam2VideoModel,
    Sam3TrackerVideoConfig,
    Sam3TrackerVideoModel,
)
from transformers.configuration_utils import PreTrainedConfig

from flmm.errors import InputError
from flmm.lmm.families.llava import LlavaAdapter
from flmm.segmenters.auto import list_segmenter_families, load_segmenter, load_segmenter_class
from flmm.segmenters.edgetam import EdgeTamSegmenter
from flmm.segmenters.sam import SamSegmenter
from flmm.segmenters.sam2 import Sam2Segmenter
from flmm.segmenters.sam3_tracker import Sam3TrackerSegmenter

VIDEO_MODELS = [
    (Sam2Segmenter, Sam2VideoConfig, Sam2VideoModel),
    (EdgeTamSegmenter, EdgeTamVideoConfig, EdgeTamVideoModel),
    (Sam3TrackerSegmenter, Sam3TrackerVideoConfig, Sam3TrackerVideoModel),
]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    SamSegmenter.build_tiny().sam.save_pretrained(tmp_path)
    return tmp_path


def message(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_segmenter(folder)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("segmenter_class", "config_class", "model_class"),
    VIDEO_MODELS,
    ids=["sam2", "edgetam", "sam3"],
)
def test_part_for_pictures_of_a_model_for_videos_is_loaded(
    segmenter_class: type[Sam2Segmenter],
    config_class: Callable[..., PreTrainedConfig],
    model_class: Callable[[PreTrainedConfig], Sam2VideoModel],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The hub has SAM 2, EdgeTAM and SAM 3 with their memory of earlier frames only."""
    config = segmenter_class.build_tiny().sam.config
    parts = {
        name: getattr(config, name).to_dict()
        for name in ("vision_config", "prompt_encoder_config", "mask_decoder_config")
    }
    if segmenter_class is Sam3TrackerSegmenter:
        # As published: a fourth map, which the tracker does not use.
        parts["vision_config"]["scale_factors"] = [4.0, 2.0, 1.0, 0.5]
    side = config.prompt_encoder_config.image_size
    video = model_class(config_class(**parts, **VIDEO_MEMORY, image_size=side))
    scramble(video)
    video.save_pretrained(tmp_path)
    video.train(False)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    loaded = load_segmenter(tmp_path)
    assert type(loaded) is segmenter_class
    saved = video.state_dict()
    for name, weight in loaded.sam.state_dict().items():
        assert torch.equal(weight, saved[name]), name
    assert not caplog.records
    pixels = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    embedding, *fine = loaded.eval().encode_pixels(pixels).tensors
    expected = video.get_image_embeddings(pixels)
    for found, feature in zip([*fine, embedding], expected, strict=True):
        torch.testing.assert_close(found, feature, atol=1e-3, rtol=1e-3)


def test_missing_and_unknown_weights_are_named(saved: Path) -> None:
    path = saved / "model.safetensors"
    weights = load_file(path)
    removed = "mask_decoder.iou_token.weight"
    save_file({name: weights[name] for name in weights if name != removed}, path, {"format": "pt"})
    assert removed in message(saved)
    save_file({**weights, "stranger": torch.zeros(1)}, path, {"format": "pt"})
    assert "stranger" in message(saved)


def test_cut_short_weights_are_one_line(saved: Path) -> None:
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    assert "cut short" in message(saved)


def test_families_are_listed_without_torch_as_their_classes_are() -> None:
    script = (
        "import sys; from flmm.segmenters.auto import list_segmenter_families as list_families;"
        "print(*(family.class_name for family in list_families()));"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        "EdgeTamSegmenter", "SamSegmenter", "Sam2Segmenter", "Sam3TrackerSegmenter",
        "SamHQSegmenter",
    ]  # fmt: skip
    for family in list_segmenter_families():
        assert load_segmenter_class(family).model_types == family.model_types
        assert load_segmenter_class(family).hub_ids == family.hub_ids
        assert all(name.count("/") == 1 for name in family.hub_ids)


def test_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    LlavaAdapter.build_tiny().model.save_pretrained(tmp_path)
    assert "'llava'" in message(tmp_path)
    assert "sam2_video" in message(tmp_path)


def test_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    assert str(tmp_path) in message(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "sam"}))
    assert "cannot be loaded" in message(tmp_path)
    assert "no-such-folder" in message(Path("./no-such-folder"))
