"""Experiment trackers of a training run."""

import json
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path

import pytest
from command import run_in_new_process
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from training_workspace import TrainingWorkspace, error_line, make_workspace, train


@pytest.fixture
def workspace(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingWorkspace:
    return make_workspace(tmp_path, tmp_path_factory)


def read_log(workspace: TrainingWorkspace) -> dict[str, dict[int, float]]:
    """Return the values of the run's log, by name and step."""
    logged_values: dict[str, dict[int, float]] = defaultdict(dict)
    for line in (workspace.folder / "run" / "log.jsonl").read_text().splitlines():
        content = json.loads(line)
        step = content.pop("step")
        del content["epoch"]
        for name, value in content.items():
            logged_values[name][step] = value
    return logged_values


def test_tensorboard_gets_the_values_of_the_log(
    workspace: TrainingWorkspace, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = train(capsys, workspace.write_settings(), "--tracker", "tensorboard", "--json")
    assert ended.code == 0, ended.err
    written: dict[str, dict[int, float]] = defaultdict(dict)
    for file in (workspace.folder / "run" / "flmm").glob("events.out.tfevents.*"):
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                if value.tensor.float_val:
                    written[value.tag][event.step] = value.tensor.float_val[0]
    expected = read_log(workspace)
    assert {"loss", "phrases", "validation/refined_cumulative_iou"} <= expected.keys()
    assert written.keys() == expected.keys()
    for name, values in expected.items():
        assert written[name] == pytest.approx(values), name


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb", "trackio"])
def test_missing_tracker_is_an_error_before_models_load(
    tracker: str,
    workspace: TrainingWorkspace,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    ended = train(capsys, workspace.write_settings(lmm="/nowhere/lmm"), "--tracker", tracker)
    assert f"pip install {tracker}, or leave" in error_line(ended)
    assert not (workspace.folder / "run").exists()


def install(folder: Path, name: str, code: str) -> None:
    """Write a package with this code and its metadata to the folder's `packages`."""
    folder = folder / "packages"
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(code)
    (folder / f"{name}-1.dist-info").mkdir()
    (folder / f"{name}-1.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: 1\n")


def test_tracker_that_fails_to_start_ends_the_run(
    workspace: TrainingWorkspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "wandb", "def init(**_): raise SystemError('no key\\nis configured')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"), prepend=":")
    ended = run_in_new_process("train", str(workspace.write_settings()), "--tracker", "wandb")
    assert "tracker 'wandb' does not start (no key); mend that" in error_line(ended)


PRINTING_TRACKER = """
import atexit
config = {}
class Run:
    def log(self, values, step): print("logging", values)
    def finish(self): print("finishing")
run = None
def init(project, name, resume):
    global run
    run = Run()
    print("beginning", name, resume)
    return run
def finish():
    global run
    run.finish()
    run = None
atexit.register(lambda: run and run.finish())
class config:
    update = staticmethod(lambda values, allow_val_change: print(values))
"""


def test_trackers_print_to_stderr_and_a_rerun_resumes_their_run(
    workspace: TrainingWorkspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "trackio", PRINTING_TRACKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"), prepend=":")
    settings = workspace.write_settings(epochs=1)
    ended = run_in_new_process("train", str(settings), "--tracker", "trackio", "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["steps"] == 2
    assert ended.err.count("logging") == 3
    assert "finishing" in ended.err
    # A second call resumes the same run.
    again = run_in_new_process("train", str(settings), "--tracker", "trackio", "--json")
    (start_line,) = (line for line in ended.err.splitlines() if line.startswith("beginning"))
    assert start_line.endswith(" allow")
    assert start_line in again.err.splitlines()


@pytest.mark.skipif(
    find_spec("wandb") is None or find_spec("trackio") is None, reason="trackers are not installed"
)
@pytest.mark.parametrize("tracker", ["wandb", "trackio"])
def test_installed_trackers_save_one_resumable_run(
    tracker: str, workspace: TrainingWorkspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.chdir(tmp_path)
    settings = workspace.write_settings(epochs=1)
    ended = run_in_new_process("train", str(settings), "--tracker", tracker, "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["steps"] == 2
    patterns = {"wandb": "run/wandb/offline-run-*/*.wandb", "trackio": "trackio/flmm.db"}
    assert len(list(tmp_path.glob(patterns[tracker]))) == 1
    assert not (tmp_path / "wandb").exists()
    # A second call resumes the same run.
    run_id = (tmp_path / "run" / "tracker-run").read_text()
    again = run_in_new_process("train", str(settings), "--tracker", tracker, "--json")
    assert again.code == 0, again.err
    run_patterns = {
        "wandb": f"run/wandb/offline-run-*-{run_id}/*.wandb",
        "trackio": "trackio/flmm.db",
    }
    run_files = list(tmp_path.glob(run_patterns[tracker]))
    assert len(run_files) == len(list(tmp_path.glob(patterns[tracker])))
    assert run_id.encode() in run_files[0].read_bytes()
