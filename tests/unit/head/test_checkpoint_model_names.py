"""The names of a head's LMM and SAM: folders that move, hub ids, and what is not there."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_head import tiny_head, tiny_sam, tiny_segmenter

from flmm.errors import InputError
from flmm.head.checkpoint import load_head, resolve_lmm, save_head
from flmm.head.model import GroundingHead
from flmm.lmm.architecture import read_architecture
from flmm.lmm.auto import load_lmm
from flmm.segmenters.auto import load_segmenter


def test_moved_head_finds_its_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The models are named relative to the folder in which training ran; the head then moves."""
    monkeypatch.chdir(tmp_path)
    Path("models/lmm").mkdir(parents=True)
    tiny_sam().save_pretrained("models/sam")
    head = tiny_head(base_model_name_or_path="models/lmm", refiner_name_or_path="models/sam")
    save_head(head, "runs/head")
    (tmp_path / "elsewhere").mkdir()
    Path("runs/head").rename("elsewhere/head")
    monkeypatch.chdir(tmp_path / "elsewhere")
    loaded = load_head("head")
    assert resolve_lmm("head", loaded.config, None) == (str(tmp_path / "models/lmm"), None)


def test_models_in_the_heads_folder_move_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("head/lmm").mkdir(parents=True)
    tiny_sam().save_pretrained("head/sam")
    save_head(
        tiny_head(base_model_name_or_path="head/lmm", refiner_name_or_path=f"{tmp_path}/head/sam"),
        "head",
    )
    names = json.loads(Path("head/config.json").read_text())
    assert (names["base_model_name_or_path"], names["refiner_name_or_path"]) == ("lmm", "sam")
    Path("head").rename("moved")
    # The name holds in the head's folder first.
    Path("lmm").mkdir()
    loaded = load_head("moved")
    assert loaded.config.base_model_name_or_path == str(tmp_path / "moved/lmm")
    # Saved elsewhere, it still names those folders; saved there again, it can move on.
    save_head(loaded, "copy")
    assert load_head("copy").config == loaded.config
    save_head(loaded, "moved")
    assert json.loads(Path("moved/config.json").read_text()) == names


def test_hub_ids_and_embedded_names_are_kept(tmp_path: Path) -> None:
    head = tiny_head(base_model_name_or_path="embedded:lmm", refiner_name_or_path="someone/sam")
    save_head(head, tmp_path)
    assert load_head(tmp_path, tiny_segmenter()).config == head.config


def test_embedded_names_are_loaded(tmp_path: Path) -> None:
    """A head names what it was trained with, as the settings of its training do."""
    assert load_lmm("embedded:lmm").model_type == "llava"
    assert read_architecture("embedded:lmm").layers == 4
    embedded = load_head("embedded:head")
    save_head(
        GroundingHead(
            replace(embedded.config, refiner_name_or_path="embedded:sam"),
            load_segmenter("embedded:sam"),
        ),
        tmp_path,
    )
    saved = load_head(tmp_path)
    assert saved.config.refiner_name_or_path == "embedded:sam"
    encoder = "refiner.sam.vision_encoder.neck.conv1.weight"
    assert saved.state_dict()[encoder].equal(embedded.state_dict()[encoder])
    with pytest.raises(InputError, match=r"no 'embedded:sma'.*embedded:sam"):
        load_segmenter("embedded:sma")


def test_head_whose_models_are_elsewhere_says_what_to_pass(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    save_head(tiny_head(base_model_name_or_path=gone, refiner_name_or_path=gone), tmp_path)
    with pytest.raises(InputError, match=r"gone' as its SAM.*with --sam \(sam=\)") as caught:
        load_head(tmp_path)
    assert "\n" not in str(caught.value)
    config = load_head(tmp_path, tiny_segmenter()).config
    with pytest.raises(InputError, match=r"gone' as its LMM.*with --lmm \(lmm=\)") as caught:
        resolve_lmm("head", config, None)
    assert "\n" not in str(caught.value)
    # Its name there is no reason to refuse a hub id; type and sizes are checked after loading.
    assert resolve_lmm("head", config, "someone/lmm") == ("someone/lmm", None)


def test_head_without_its_own_sam_folder_says_so(tmp_path: Path) -> None:
    save_head(tiny_head(), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "refiner_name_or_path": "sam"}))
    with pytest.raises(
        InputError, match=r"head's folder lacks its folder 'sam', the SAM; copy.*--sam \(sam=\)"
    ) as caught:
        load_head(tmp_path)
    assert "\n" not in str(caught.value)


def test_relative_name_of_an_old_head_says_what_to_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older versions saved names as they were typed; such a one can also be a hub id."""
    save_head(tiny_head(), tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    path = tmp_path / "config.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "refiner_name_or_path": "models/sam"})
    )
    with pytest.raises(
        InputError, match=r"'models/sam' is neither .* with --sam \(sam=\)"
    ) as caught:
        load_head(tmp_path)
    assert "\n" not in str(caught.value)
