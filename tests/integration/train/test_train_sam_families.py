"""`flmm train --sam`: a head with a SAM of another family, and a second SAM given at its use."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from command import run_in_process
from training_workspace import TrainingWorkspace, error_line, make_workspace, train
from transformers import SamHQConfig, SamHQModel, SamModel

import flmm
from flmm.errors import InputError
from flmm.segmenters.sam2 import Sam2Segmenter
from flmm.segmenters.sam_hq import SamHQSegmenter


@pytest.fixture
def workspace(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingWorkspace:
    return make_workspace(tmp_path, tmp_path_factory)


def test_head_with_sam2_is_trained_from_a_cache_and_used(
    workspace: TrainingWorkspace, capsys: pytest.CaptureFixture[str]
) -> None:
    sam = workspace.folder / "sam2"
    Sam2Segmenter.build_tiny().sam.save_pretrained(sam)
    settings = workspace.write_settings(epochs=1)
    flags = ("--sam", str(sam), "--json")
    uncached = train(capsys, settings, *flags, "--out", str(workspace.folder / "uncached"))
    assert uncached.code == 0, uncached.err
    ended = train(capsys, settings, *flags, "--cache", str(workspace.folder / "cache"))
    assert ended.code == 0, ended.err
    result = json.loads(ended.out)
    assert result["scores"]["phrases"] > 0
    assert result["scores"] == pytest.approx(json.loads(uncached.out)["scores"], abs=0.05)
    config = json.loads(Path(result["head"], "config.json").read_text())
    assert config["refiner_name_or_path"] == str(sam)
    assert config["refiner_model_type"] == "sam2"

    picture = next((workspace.folder / "data").rglob("*.jpg"))
    command = ["segment", str(picture), "the grass", "--model", result["head"], "--json"]
    answer = run_in_process(command, capsys)
    assert answer.code == 0, answer.err
    moved = workspace.folder / "elsewhere"
    shutil.move(sam, moved)
    assert run_in_process(command, capsys).code == 2
    again = run_in_process([*command, "--sam", str(moved)], capsys)
    assert again.code == 0, again.err
    assert json.loads(again.out)["phrases"] == json.loads(answer.out)["phrases"]


def test_sam_of_another_family_or_size_is_refused_in_one_line(
    workspace: TrainingWorkspace, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = train(capsys, workspace.write_settings(epochs=1), "--json")
    assert ended.code == 0, ended.err
    head = json.loads(ended.out)["head"]
    grounder = flmm.Grounder.from_pretrained(head, device="cpu")
    copy = workspace.folder / "copy"
    assert grounder.head is not None
    grounder.head.refiner.sam.save_pretrained(copy)
    picture = next((workspace.folder / "data").rglob("*.jpg"))
    answers = [
        each.segment(picture, ["the grass"])
        for each in (grounder, flmm.Grounder.from_pretrained(head, sam=copy, device="cpu"))
    ]
    assert np.array_equal(answers[0].phrases[0].mask, answers[1].phrases[0].mask)

    other = workspace.folder / "other"
    SamHQSegmenter.build_tiny().sam.save_pretrained(other)
    with pytest.raises(InputError, match=r"a SAM of type 'sam' .* of type 'sam_hq'") as caught:
        flmm.Grounder.from_pretrained(head, sam=other, device="cpu")
    assert "\n" not in str(caught.value)
    deeper = grounder.head.refiner.sam.config
    deeper.vision_config.num_hidden_layers = 2
    type(grounder.head.refiner.sam)(deeper).save_pretrained(other)
    with pytest.raises(InputError, match=r"'sam' with a vision encoder of [\d,]+ parameters, this"):
        flmm.Grounder.from_pretrained(head, sam=other, device="cpu")


def test_cache_of_sam_is_stale_for_sam_hq_with_the_same_encoder(
    workspace: TrainingWorkspace, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = workspace.write_settings(epochs=1, cache="cache")
    ended = train(capsys, settings)
    assert ended.code == 0, ended.err
    sam = SamModel.from_pretrained(workspace.settings["sam"])
    config = SamHQSegmenter.build_tiny().sam.config.to_dict()
    config["vision_config"].update(num_hidden_layers=1, global_attn_indexes=[0])
    sam_hq = SamHQModel(SamHQConfig.from_dict(config))
    sam_hq.vision_encoder.load_state_dict(sam.vision_encoder.state_dict())
    sam_hq.save_pretrained(workspace.folder / "sam-hq")
    refused = train(
        capsys,
        settings,
        "--sam",
        str(workspace.folder / "sam-hq"),
        "--out",
        str(workspace.folder / "out"),
    )
    assert "is stale: its SAM's type is 'sam', now it is 'sam_hq'" in error_line(refused)
