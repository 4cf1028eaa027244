"""``flmm cache``: the features of a training made ahead, in parts and by several processes."""

import json
from pathlib import Path

import pytest
from command import run_in_process
from training_workspace import TrainingWorkspace, make_workspace, max_difference, train

from flmm.data.features import FeatureExtractor
from flmm.train.fit import TrainingRun, fit
from flmm.train.training_state import TrainingProgress


@pytest.fixture
def workspace(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingWorkspace:
    return make_workspace(tmp_path, tmp_path_factory)


def fill(capsys: pytest.CaptureFixture[str], settings: Path, *options: str) -> dict[str, int | str]:
    ended = run_in_process(["cache", str(settings), "--json", *options], capsys)
    assert ended.code == 0, ended.err
    content: dict[str, int | str] = json.loads(ended.out)
    return content


def test_training_begins_without_the_lmm(
    workspace: TrainingWorkspace,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = workspace.write_settings(cache="cache")
    counts = [fill(capsys, settings, "--shard", f"{part}/2") for part in range(2)]
    assert sum(int(count["new"]) for count in counts) == 8
    assert all(count["pictures"] == count["new"] == count["done"] != 0 for count in counts)
    folder = workspace.folder / "cache"
    assert counts[0]["cache"] == str(folder)
    (folder / "key.lock").unlink(missing_ok=True)
    changed = folder.stat().st_mtime_ns
    assert fill(capsys, settings) == {**counts[0], "pictures": 8, "new": 0, "done": 8}
    # A cache that is full may be where nothing can be written.
    assert folder.stat().st_mtime_ns == changed

    def fail(*_: object) -> None:
        raise AssertionError("the LMM is asked")

    real_extract = FeatureExtractor.extract

    def fit_then_allow_calibration(run: TrainingRun) -> TrainingProgress:
        progress = fit(run)
        monkeypatch.setattr(FeatureExtractor, "extract", real_extract)
        return progress

    monkeypatch.setattr(FeatureExtractor, "extract", fail)
    monkeypatch.setattr("flmm.train.run.fit", fit_then_allow_calibration)
    assert train(capsys, settings).code == 0
    monkeypatch.undo()
    alone = train(capsys, workspace.write_settings(cache="other", out="alone"))
    assert alone.code == 0
    # A shard's pictures went through the LMM with others, which rounds otherwise.
    difference = max_difference(workspace.load_weights("run"), workspace.load_weights("alone"))
    assert difference < 5e-3


def test_workers_fill_it_together_and_choose_the_same_maps(
    workspace: TrainingWorkspace, capsys: pytest.CaptureFixture[str]
) -> None:
    (workspace.folder / "data" / "texts.jsonl").open("a").write(
        '{"image": "missing.png", "text": "A cat.", "phrases": []}\n'
    )
    settings = workspace.write_settings(
        cache="cache", head={**workspace.settings["head"], "heads": 2}
    )
    count = fill(capsys, settings, "--workers", "2")
    assert (count["new"], count["failed"]) == (8, 1)
    assert len(json.loads((workspace.folder / "run" / "maps.json").read_text())) == 2
    again = fill(capsys, settings)
    assert (again["new"], again["done"], again["failed"]) == (0, 8, 1)


def test_settings_without_a_cache_are_refused(
    workspace: TrainingWorkspace, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = run_in_process(["cache", str(workspace.write_settings())], capsys)
    assert ended.code == 2
    assert "the settings name no cache; give --cache DIR" in ended.err
