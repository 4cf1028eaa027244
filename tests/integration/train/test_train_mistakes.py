"""Wrong data, settings and checkpoints: one line of error, and nothing lost."""

import json
from pathlib import Path

import pytest
from command import run_in_process
from training_workspace import TrainingWorkspace, error_line, make_workspace, train

ENTRY = {"kind": "plain", "name": "x", "file": "data/texts.jsonl"}


@pytest.fixture
def workspace(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingWorkspace:
    return make_workspace(tmp_path, tmp_path_factory)


def test_unreadable_pictures_are_reported_counted_and_left_out(
    workspace: TrainingWorkspace, capsys: pytest.CaptureFixture[str]
) -> None:
    (workspace.folder / "data" / "1.jpg").unlink()
    whole = (workspace.folder / "data" / "2.jpg").read_bytes()
    (workspace.folder / "data" / "2.jpg").write_bytes(whole[: len(whole) // 2])
    ended = train(capsys, workspace.write_settings(), "--json")
    assert ended.code == 0
    assert json.loads(ended.out)["left_out"] == 2
    for name in ("1.jpg", "2.jpg"):
        assert sum(f"{name}'" in line for line in ended.err.splitlines()) == 1


def test_no_readable_picture_is_an_error(
    workspace: TrainingWorkspace, capsys: pytest.CaptureFixture[str]
) -> None:
    for picture in (workspace.folder / "data").glob("*.jpg"):
        picture.unlink()
    assert "none of the 6 pictures can be learned from" in error_line(
        train(capsys, workspace.write_settings())
    )


def test_non_finite_loss_ends_the_run_and_keeps_the_checkpoint(
    workspace: TrainingWorkspace, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = workspace.write_settings(epochs=8)
    ended = train(capsys, settings, "--learning-rate", "1e30")
    assert "lower learning_rate (1e+30)" in error_line(ended)
    assert all(weight.isfinite().all() for weight in workspace.load_weights("run").values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs: Input should be greater than or equal to 1"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"train": []}, "train: "),
        ({"speed": 3}, "speed: Extra inputs are not permitted"),
        ({"lmm": "/nowhere/lmm"}, "/nowhere/lmm"),
        ({"head": {"heads": 5000}}, "heads is 5000; this LMM has 12 maps"),
        ({"head": {"layers": [7]}}, "layers are [7]; choose some of 0..2"),
        ({"head": {"heads": 3, "layers": [0]}}, "both layers and heads"),
        ({"train": [{"kind": "plain", "name": "x", "file": "none.jsonl"}]}, "none.jsonl"),
        ({"tracker": "paper"}, "tracker"),
        ({"train": [ENTRY, ENTRY]}, "two train entries have the name 'x'; give each its own"),
        ({"seed": 10**30}, "seed: Input should be less than 4294967296"),
        ({"seed": -1}, "seed: Input should be greater than or equal to 0"),
        ({"out": "a\0b"}, "out: Value error, no folder has a NUL character"),
        ({"head": {"base_channels": 10**8}}, "head.base_channels: Input should be less than"),
        ({"head": {"stages": 100}}, "head.stages: Input should be less than or equal to 8"),
        ({"head": {"upsample_input": 10**6}}, "head.upsample_input: Input should be less than"),
        ({"device": "cuda:1"}, "choose the GPU with CUDA_VISIBLE_DEVICES"),
    ],
)
def test_wrong_settings_get_one_line(
    changes: dict[str, object],
    message: str,
    workspace: TrainingWorkspace,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert message in error_line(train(capsys, workspace.write_settings(**changes)))


def test_folder_that_cannot_be_locked_gets_one_line(
    workspace: TrainingWorkspace, capsys: pytest.CaptureFixture[str]
) -> None:
    # A folder in the lock's place stands for a file system without locks.
    (workspace.folder / "run" / "maps.lock").mkdir(parents=True)
    ended = train(capsys, workspace.write_settings(head={"heads": 2}))
    assert "cannot be locked (Is a directory)" in error_line(ended)


def test_damaged_settings_and_checkpoints_get_one_line(
    workspace: TrainingWorkspace, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = workspace.write_settings()
    assert train(capsys, settings).code == 0
    assert "learning_rate was 0.001" in error_line(
        train(capsys, settings, "--learning-rate", "0.01")
    )
    checkpoint = workspace.folder / "run" / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    assert "is damaged; delete it" in error_line(train(capsys, settings))
    settings.write_text("lmm: [")
    assert "not YAML" in error_line(train(capsys, settings))
    for text in (
        "lmm: 2020-13-45",
        f"lmm: {'[' * 5000}",
        "lmm: !!python/object/apply:os.system [id]",
        "\0",
        "? [a]\n: b",
    ):
        settings.write_text(text)
        assert "not YAML" in error_line(train(capsys, settings))
    settings.write_text("- 3")
    assert "hold no entries" in error_line(train(capsys, settings))
    assert "cannot be read" in error_line(train(capsys, workspace.folder / "none.yaml"))


@pytest.mark.parametrize("command", ["train settings.yaml", "stickers build", "bench train"])
def test_missing_packages_are_named(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flmm.cli.options.find_spec", lambda _name: None)
    message = error_line(run_in_process(command.split(), capsys))
    assert "this needs accelerate" in message
    assert "pip install 'flmm[train]'" in message
