"""A trained head's scores are calibrated on the validation pictures."""

from dataclasses import replace
from pathlib import Path

import pytest
from training_workspace import TrainingWorkspace, make_workspace, train

from flmm.grounding.grounder import Grounder
from flmm.head.checkpoint import load_config, load_head, save_config
from flmm.head.phrase_score import ScoreCalibration, ScoreWeights


@pytest.fixture
def workspace(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> TrainingWorkspace:
    monkeypatch.chdir(tmp_path)
    return make_workspace(tmp_path, tmp_path_factory)


def test_scores_are_calibrated_on_validation_pictures(
    workspace: TrainingWorkspace, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = workspace.write_settings(epochs=1)
    assert train(capsys, settings).code == 0
    folder = workspace.folder / "run" / "head"
    calibration = load_config(folder).score_calibration
    assert calibration is not None
    # A rerun finds the same weights.
    assert train(capsys, settings).code == 0
    assert load_config(folder).score_calibration == calibration
    assert load_head(folder).config.score_calibration == calibration
    picture = next((workspace.folder / "held-out").rglob("*.jpg"))
    one_half = ScoreWeights(0.0, 0.0, 0.0, 0.0, 0.0)
    even = ScoreCalibration(one_half, one_half)
    save_config(replace(load_config(folder), score_calibration=even), folder)
    (phrase,) = Grounder.from_pretrained(folder).segment(picture, ["a cat"]).phrases
    assert phrase.score == (0.5 if phrase.area else 0.0)


def test_without_validation_data_there_is_no_calibration(
    workspace: TrainingWorkspace, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = workspace.write_settings(epochs=1, validation=[])
    assert train(capsys, settings).code == 0
    assert load_config(workspace.folder / "run" / "head").score_calibration is None
