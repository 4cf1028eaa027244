"""Mistakes of users and failures, as the command tells them: exit code, one line, no files."""

import subprocess
import sys
from pathlib import Path

import pytest
from command import is_refused, list_files, run_in_new_process, run_in_process
from command_fixtures import Models
from tiny_grounding import save_tiny_head

QUESTION = "What is in the picture?"

pytest_plugins = ("command_fixtures",)
pytestmark = pytest.mark.usefixtures("in_empty_folder")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["chat"], "Missing argument 'IMAGE'"),
        (["chat", "a.png"], "Missing argument 'QUESTION'"),
        (["segment", "a.png"], "Missing argument"),
        (["paint"], "No such command 'paint'"),
        (["chat", "a.png", "Q", "--colour"], "No such option: --colour"),
        (["chat", "a.png", "Q", "--max-new-tokens", "many"], "--max-new-tokens"),
        (["chat", "a.png", "Q", "--phrases-from", "me"], "--phrases-from"),
        (["chat", "none.png", QUESTION], "there is no picture 'none.png'; check the path"),
        (["segment", "none.png", "cat"], "there is no picture 'none.png'; check the path"),
        (["chat", ".", QUESTION], "'.' is a folder; give a picture file"),
        (["attend", "none.png", QUESTION], "there is no picture 'none.png'; check the path"),
        (["attend", "a.png", QUESTION, "--layer", "first"], "--layer"),
        (["think", "none.png", QUESTION], "there is no picture 'none.png'; check the path"),
        (["think", "a.png", QUESTION, "--crop", "circle"], "--crop"),
    ],
)
def test_bad_usage_is_refused(
    arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert is_refused(run_in_process(arguments, capsys), part)
    assert list_files() == []


def test_mistakes_that_need_no_model_are_told_before_it_is_imported(scene: str) -> None:
    mistakes = [
        ["chat", "none.png", QUESTION],
        ["chat", scene, ""],
        ["chat", scene, QUESTION, "--phrase", ""],
        ["chat", scene, QUESTION, "--max-new-tokens", "0"],
        ["chat", scene, QUESTION, "--image", "none.png"],
        ["chat", scene, QUESTION, "--history", "none.json"],
        ["chat", scene, QUESTION, "--system", " "],
        ["chat", scene, QUESTION, "--temperature", "-1"],
        ["chat", scene, QUESTION, "--seed", str(2**64)],
        ["chat", scene, QUESTION, "--dtype", "int4"],
        ["chat", scene, QUESTION, "--min-score", "2"],
        ["chat", scene, QUESTION, "--lmm", "embedded:nothing"],
        ["segment", scene, "cat", "--out", "overlay.gif"],
        ["attend", scene, QUESTION, "--answer", " "],
        ["think", scene, " "],
        ["think", scene, QUESTION, "--margin", "-1"],
        ["ground", scene, "a cat", "--question", " "],
        ["ground", scene, "a cat", "--sam", "embedded:nothing"],
        ["batch", "nowhere", QUESTION],
        ["train", "none.yaml"],
        ["evaluate", "refcoco"],
        ["evaluate", "viscot", "--think"],
        ["calibrate", "nowhere", "--lmm", "embedded:lmm"],
        ["convert", "none.pth", "--lmm", "embedded:lmm", "--out", "head"],
        ["serve", "--allow-origin", "nowhere"],
        ["serve", "--allow-media-domains", "http://example.org"],
        ["serve", "--api-key", " "],
        ["export", "nowhere", "--to", "coco"],
    ]
    code = f"""
import sys
from flmm.cli.main import run
for arguments in {mistakes!r}:
    try:
        run(arguments)
    except SystemExit as ended:
        print(ended.code, [name for name in ("torch", "transformers") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["2 []"] * len(mistakes), done.stderr
    assert len(done.stderr.splitlines()) == len(mistakes)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["chat", ""], "the question is empty"),
        (["segment", " "], "the phrase is empty"),
        (["chat", QUESTION, "--phrase", ""], "the phrase is empty"),
        (["chat", QUESTION, "--max-new-tokens", "0"], "give at least 1"),
        (["chat", QUESTION, "--phrase", "a zeppelin"], "'a zeppelin' is not in the text"),
        (["chat", QUESTION, "--out", "overlay.gif"], "choose one of .png"),
        (["chat", QUESTION, "--out", "no/overlay.png"], "there is no folder 'no'"),
        (["chat", QUESTION, "--device", "tpu9"], "device 'tpu9' cannot be used here"),
        (["chat", QUESTION, "--dtype", "int4"], "dtype 'int4' is unknown"),
        (["chat", QUESTION, "--lmm", "nobody/no-lmm"], "was it"),
        (["think", QUESTION, "--margin", "-1"], "Invalid value for '--margin'"),
        (["attend", QUESTION, "--answer", ""], "the answer is empty"),
        (["attend", QUESTION, "--answer", "a cat", "--word", "dog"], "'dog' is not in the text"),
        (["attend", QUESTION, "--answer", "a cat", "--head", "4"], "head 4 is not in 0..3"),
    ],
)
def test_bad_value_is_refused(
    arguments: list[str],
    part: str,
    models: Models,
    scene: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command, first, *rest = arguments
    full = [command, scene, first, "--model", str(models.head), *rest]
    ended = run_in_process(full, capsys)
    assert is_refused(ended, "nobody/no-lmm" if part == "was it" else part), ended
    assert list_files() == []


def test_unknown_or_incompatible_model_is_refused(
    models: Models, scene: str, tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    chat = ["chat", scene, QUESTION]
    assert is_refused(
        run_in_process([*chat, "--model", "nobody/no-head"], capsys), "nobody/no-head"
    )
    assert is_refused(run_in_process([*chat, "--model", "/no/folder"], capsys), "/no/folder")
    assert is_refused(
        run_in_process([*chat, "--model", str(models.lmm)], capsys), "name it as the LMM"
    )
    other = save_tiny_head(tmp_path_factory.mktemp("other"), str(models.lmm), layers=5)
    assert is_refused(run_in_process([*chat, "--model", str(other)], capsys), "5 layers")
    molmo = tmp_path_factory.mktemp("molmo")
    (molmo / "config.json").write_text('{"model_type": "molmo2"}')
    (molmo / "preprocessor_config.json").write_text(
        '{"image_processor_type": "Molmo2ImageProcessor"}'
    )
    monkeypatch.setattr("flmm.lmm.image_processing.is_torchvision_available", lambda: False)
    ended = run_in_process([*chat, "--lmm", str(molmo), "--sam", "none"], capsys)
    assert is_refused(ended, str(molmo), "needs torchvision", "pip install")
    assert list_files() == []


def test_picture_is_never_overwritten(
    models: Models, scene: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Path(scene).read_bytes()
    arguments = ["chat", scene, QUESTION, "--model", str(models.head), "--out", scene]
    assert is_refused(run_in_process(arguments, capsys), "is the picture itself")
    assert Path(scene).read_bytes() == before


def test_failed_write_leaves_no_file(
    models: Models,
    scene: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("flmm.atomic_write.os.replace", fail)
    arguments = ["segment", scene, "a cat", "--model", str(models.head)]
    assert is_refused(run_in_process(arguments, capsys), "No space left on device")
    assert list_files() == []


def test_damaged_pictures_are_refused_in_a_new_process(scene: str, tmp_path: Path) -> None:
    short = tmp_path / "short.png"
    short.write_bytes(Path(scene).read_bytes()[:2000])
    assert is_refused(run_in_new_process("chat", str(short), QUESTION), "short.png' is damaged")
    short.write_bytes(b"")
    assert is_refused(run_in_new_process("segment", str(short), "cat"), "is empty (0 bytes)")
    short.write_bytes(b"hello")
    assert is_refused(run_in_new_process("chat", str(short), QUESTION), "is not a picture")


def test_internal_error_exits_with_1(scene: str) -> None:
    code = (
        "import flmm.pictures.reading, flmm.cli.main\n"
        "def fail(picture): raise RuntimeError('a bug')\n"
        "flmm.pictures.reading.read_picture = fail\n"
        f"flmm.cli.main.run(['chat', {scene!r}, 'Why?'])"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert (process.returncode, process.stdout) == (1, "")
    assert process.stderr.endswith("RuntimeError: a bug\n")
