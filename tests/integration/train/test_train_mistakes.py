"""Data, settings and checkpoints that are wrong: one line, and nothing lost."""

import json
from pathlib import Path

import pytest
from command import in_process
from training_place import Place, make_place, refused, train

ENTRY = {"kind": "plain", "name": "x", "file": "data/texts.jsonl"}


@pytest.fixture
def place(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return make_place(tmp_path, tmp_path_factory)


def test_what_cannot_be_read_is_told_counted_and_left_out(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    (place.folder / "data" / "1.jpg").unlink()
    whole = (place.folder / "data" / "2.jpg").read_bytes()
    (place.folder / "data" / "2.jpg").write_bytes(whole[: len(whole) // 2])
    ended = train(capsys, place.write(), "--json")
    assert ended.code == 0
    assert json.loads(ended.out)["left_out"] == 2
    for name in ("1.jpg", "2.jpg"):
        assert sum(f"{name}'" in line for line in ended.err.splitlines()) == 1


def test_nothing_to_learn_from_is_a_mistake(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    for picture in (place.folder / "data").glob("*.jpg"):
        picture.unlink()
    assert "none of the 6 pictures can be learned from" in refused(train(capsys, place.write()))


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_checkpoint(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = place.write(epochs=8)
    ended = train(capsys, settings, "--learning-rate", "1e30")
    assert "lower learning_rate (1e+30)" in refused(ended)
    assert all(weight.isfinite().all() for weight in place.state("run").values())


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
def test_mistakes_get_one_line(
    changes: dict[str, object], message: str, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(train(capsys, place.write(**changes)))


def test_damaged_settings_and_checkpoints_get_one_line(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = place.write()
    assert train(capsys, settings).code == 0
    assert "learning_rate was 0.001" in refused(train(capsys, settings, "--learning-rate", "0.01"))
    checkpoint = place.folder / "run" / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    assert "is damaged; delete it" in refused(train(capsys, settings))
    settings.write_text("lmm: [")
    assert "not YAML" in refused(train(capsys, settings))
    for text in (
        "lmm: 2020-13-45",
        f"lmm: {'[' * 5000}",
        "lmm: !!python/object/apply:os.system [id]",
        "\0",
        "? [a]\n: b",
    ):
        settings.write_text(text)
        assert "not YAML" in refused(train(capsys, settings))
    settings.write_text("- 3")
    assert "hold no entries" in refused(train(capsys, settings))
    assert "cannot be read" in refused(train(capsys, place.folder / "none.yaml"))


@pytest.mark.parametrize("command", ["train settings.yaml", "stickers build", "bench train"])
def test_what_is_not_installed_is_named(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flmm.cli.options.find_spec", lambda _name: None)
    told = refused(in_process(command.split(), capsys))
    assert "this needs accelerate" in told
    assert "pip install 'flmm[train]'" in told
