"""A trained projector and head, saved beside the recipe and built into an LMM again."""

from pathlib import Path

import pytest
import torch
from language_model import assembly
from language_model.pretrained import (
    PRETRAINED_FOLDER,
    build_pretrained,
    finish_head,
    round_to_half,
    save_pretrained,
)
from language_model_fixtures import build_tiny_llm, build_tiny_tokenizer, save_tiny_lmm
from safetensors.torch import load_file
from transformers.models.aya_vision.modeling_aya_vision import AyaVisionForConditionalGeneration

from flmm.errors import InputError
from flmm.grounding.grounder import Grounder
from flmm.head.checkpoint import load_head, save_head
from flmm.head.config import HeadConfig
from flmm.head.model import GroundingHead
from flmm.head.weights import fingerprint_weights
from flmm.lmm.auto import load_lmm
from flmm.segmenters.auto import load_segmenter
from flmm.stickers.draw import draw
from flmm.stickers.scene import generate_scene


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A folder with an LMM whose projector is not as it began, and its head."""
    folder = tmp_path / "trained"
    adapter = load_lmm(str(save_tiny_lmm(folder / "untrained")))
    lmm = adapter.model
    assert isinstance(lmm, AyaVisionForConditionalGeneration)
    torch.manual_seed(1)
    projector = lmm.model.multi_modal_projector
    with torch.no_grad():
        for weight in projector.parameters():
            weight += 0.02 * torch.randn_like(weight)
    round_to_half(projector)
    assembly.save_lmm(lmm, adapter.tokenizer, folder / "lmm")
    config = HeadConfig(
        layers=adapter.layers, heads=adapter.heads, hidden_size=adapter.hidden_size,
        base_model_name_or_path=str(folder / "lmm"), base_model_type=adapter.model_type,
        refiner_name_or_path="embedded:sam", base_channels=8, upsample_input=32,
    )  # fmt: skip
    save_head(GroundingHead(config, load_segmenter("embedded:sam")), folder / "training")
    finish_head(folder / "training", folder / "head")
    return folder


def test_what_is_built_is_what_was_trained(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = build_tiny_llm(), build_tiny_tokenizer()
    monkeypatch.setattr(assembly, "load_smollm2", lambda: tiny)
    save_pretrained(trained, tmp_path / "kept")
    lmm, head = build_pretrained(tmp_path / "built", tmp_path / "kept")

    def fingerprints(lmm: Path, head: Path) -> list[str]:
        return [fingerprint_weights(load_lmm(str(lmm)).model), fingerprint_weights(load_head(head))]

    assert fingerprints(lmm, head) == fingerprints(trained / "lmm", trained / "head")
    # The head names the LMM beside it.
    picture = draw(generate_scene(5)).picture
    answer = Grounder.from_pretrained(str(head)).segment(picture, ["ball"])
    assert answer.phrases[0].mask.shape == picture.shape[:2]


def test_the_kept_head_and_projector_fit_the_recipe() -> None:
    config = load_head(PRETRAINED_FOLDER / "head").config
    assert (config.layers, config.heads, config.hidden_size) == (30, 9, 576)  # SmolLM2-135M's
    assert (config.base_model_name_or_path, config.refiner_name_or_path) == (
        "smollm2-llava", "embedded:sam",
    )  # fmt: skip
    with pytest.raises(InputError, match=r"lacks its folder 'smollm2-llava'.*--lmm"):
        Grounder.from_pretrained(str(PRETRAINED_FOLDER / "head"))
    # What training leaves has no value that float16 cannot hold, and nothing is left untrained.
    projector = load_file(PRETRAINED_FOLDER / "projector.safetensors")
    assert projector["linear_2.weight"].shape == (576, 1152)
    assert all(value.isfinite().all() and value.float().std() > 0 for value in projector.values())
