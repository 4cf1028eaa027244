"""A trained projector and head, saved beside the recipe and built into an LMM again."""

import shutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from language_model import assembly
from language_model.pretrained import (
    PRETRAINED_FOLDER,
    build_pretrained,
    finish_head,
    main,
    round_to_half,
    save_pretrained,
)
from language_model_fixtures import build_tiny_llm, build_tiny_tokenizer, save_tiny_lmm
from safetensors.torch import load_file
from transformers.models.aya_vision.modeling_aya_vision import AyaVisionForConditionalGeneration

from flmm.errors import InputError
from flmm.grounding.grounder import Grounder
from flmm.head.checkpoint import load_config, load_head, save_head
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
        segment_prompt="Where is the {phrase}?",
    )  # fmt: skip
    save_head(GroundingHead(config, load_segmenter("embedded:sam")), folder / "training")
    (folder / "training" / "README.md").write_text("A model card.")
    finish_head(folder / "training", folder / "head")
    return folder


@pytest.fixture
def built(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of what was saved from ``trained`` and built again, by a relative name."""
    tiny = build_tiny_llm(), build_tiny_tokenizer()
    monkeypatch.setattr(assembly, "load_smollm2", lambda: tiny)
    save_pretrained(trained, tmp_path / "kept")
    monkeypatch.chdir(tmp_path)
    build_pretrained(Path("built"), tmp_path / "kept")
    return tmp_path / "built"


def fingerprints(folder: Path) -> list[str]:
    models = load_lmm(folder / "lmm").model, load_head(folder / "head")
    return [fingerprint_weights(model) for model in models]


def test_what_is_built_is_what_was_trained(
    trained: Path, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = load_config(tmp_path / "kept" / "head")
    assert kept.base_model_name_or_path == "smollm2-llava"
    assert fingerprints(built) == fingerprints(trained)
    assert load_config(built / "head") == replace(
        load_config(trained / "head"), base_model_name_or_path=str(built / "lmm")
    )
    assert (built / "head" / "README.md").read_text() == "A model card."
    files = *(tmp_path / "kept").rglob("*.safetensors"), trained / "head" / "model.safetensors"
    assert len(files) == 3
    assert {value.dtype for file in files for value in load_file(file).values()} == {torch.float16}
    monkeypatch.chdir("/")
    picture = draw(generate_scene(5)).picture
    answer = Grounder.from_pretrained(str(built / "head")).segment(picture, ["ball"])
    assert answer.phrases[0].mask.shape == picture.shape[:2]


def test_what_took_hours_is_not_replaced(trained: Path, built: Path, tmp_path: Path) -> None:
    before = fingerprints(trained)
    with pytest.raises(InputError, match=r"lmm is there already; name another folder"):
        build_pretrained(trained, tmp_path / "kept")
    assert fingerprints(trained) == before
    # One that was stopped before its LMM was in place is done again.
    shutil.rmtree(built / "lmm")
    build_pretrained(built, tmp_path / "kept")
    assert fingerprints(built) == before


def test_nothing_is_saved_without_a_head(trained: Path, tmp_path: Path) -> None:
    shutil.rmtree(trained / "head")
    with pytest.raises(InputError, match=r"head"):
        save_pretrained(trained, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_command_says_in_one_line_what_is_wrong(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["pretrained", str(trained)])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert capsys.readouterr().err.endswith("lmm is there already; name another folder\n")


def test_recipe_goes_on_with_what_is_there(
    trained: Path, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = import_module("language_model.__main__")
    budget = recipe.TrainingBudget()
    trainings: list[Path] = []

    def train_head(settings: Path) -> Path:
        trainings.append(settings)
        return trained / "training"

    monkeypatch.setattr(recipe.projector_training, "train", None)
    monkeypatch.setattr(recipe, "train_head", train_head)
    lmm = recipe.make_lmm(built, budget)
    assert recipe.make_head(built, lmm, budget) == built / "head"
    assert not trainings
    shutil.rmtree(built / "head")
    recipe.make_head(built, lmm, budget)
    assert trainings == [built / "head.yaml"]
    assert fingerprints(built) == fingerprints(trained)


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
