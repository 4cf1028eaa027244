"""Where the figures of a training go beside its log."""

import json
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path

import pytest
from command import in_new_process
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from training_place import Place, make_place, refused, train


@pytest.fixture
def place(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return make_place(tmp_path, tmp_path_factory)


def logged(place: Place) -> dict[str, dict[int, float]]:
    """What the run's log says: steps and values by name."""
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for line in (place.folder / "run" / "log.jsonl").read_text().splitlines():
        content = json.loads(line)
        step = content.pop("step")
        del content["epoch"]
        for name, value in content.items():
            found[name][step] = value
    return found


def test_tensorboard_is_told_what_the_log_is(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = train(capsys, place.write(), "--tracker", "tensorboard", "--json")
    assert ended.code == 0, ended.err
    written: dict[str, dict[int, float]] = defaultdict(dict)
    for file in (place.folder / "run" / "flmm").glob("events.out.tfevents.*"):
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                if value.tensor.float_val:
                    written[value.tag][event.step] = value.tensor.float_val[0]
    expected = logged(place)
    assert {"loss", "phrases", "validation/refined_cumulative_iou"} <= expected.keys()
    assert written.keys() == expected.keys()
    for name, values in expected.items():
        assert written[name] == pytest.approx(values), name


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb", "trackio"])
def test_a_tracker_that_is_not_installed_is_named_before_any_work(
    tracker: str,
    place: Place,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    ended = train(capsys, place.write(lmm="/nowhere/lmm"), "--tracker", tracker)
    assert f"pip install {tracker}, or leave" in refused(ended)
    assert not (place.folder / "run").exists()


def install(folder: Path, name: str, code: str) -> None:
    """A package of this name, in the folder's `packages`, that does as the code says."""
    folder = folder / "packages"
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(code)
    (folder / f"{name}-1.dist-info").mkdir()
    (folder / f"{name}-1.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: 1\n")


def test_a_tracker_that_does_not_start_ends_the_run(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "wandb", "def init(**_): raise SystemError('no key\\nis configured')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"), prepend=":")
    ended = in_new_process("train", str(place.write()), "--tracker", "wandb")
    assert "tracker 'wandb' does not start (no key); mend that" in refused(ended)


TALKATIVE = """
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


def test_what_trackers_say_is_no_output(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "trackio", TALKATIVE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"), prepend=":")
    settings = place.write(epochs=1)
    ended = in_new_process("train", str(settings), "--tracker", "trackio", "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["steps"] == 2
    assert ended.err.count("logging") == 3
    assert "finishing" in ended.err
    # Called again, it is the same run.
    again = in_new_process("train", str(settings), "--tracker", "trackio", "--json")
    (begun,) = (line for line in ended.err.splitlines() if line.startswith("beginning"))
    assert begun.endswith(" allow")
    assert begun in again.err.splitlines()


@pytest.mark.skipif(
    find_spec("wandb") is None or find_spec("trackio") is None, reason="trackers are not installed"
)
@pytest.mark.parametrize("tracker", ["wandb", "trackio"])
def test_trackers_that_are_here_are_told(
    tracker: str, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.chdir(tmp_path)
    settings = place.write(epochs=1)
    ended = in_new_process("train", str(settings), "--tracker", tracker, "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["steps"] == 2
    kept = {"wandb": "run/wandb/offline-run-*/*.wandb", "trackio": "trackio/flmm.db"}
    assert len(list(tmp_path.glob(kept[tracker]))) == 1
    assert not (tmp_path / "wandb").exists()
    # Called again, it goes on with the same run.
    name = (tmp_path / "run" / "tracker-run").read_text()
    again = in_new_process("train", str(settings), "--tracker", tracker, "--json")
    assert again.code == 0, again.err
    runs = {"wandb": f"run/wandb/offline-run-*-{name}/*.wandb", "trackio": "trackio/flmm.db"}
    found = list(tmp_path.glob(runs[tracker]))
    assert len(found) == len(list(tmp_path.glob(kept[tracker])))
    assert name.encode() in found[0].read_bytes()
