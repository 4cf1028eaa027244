"""The command as users run it: its output, exit code and files."""

import json
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from command import CommandResult, run_in_new_process, run_in_process
from PIL import Image
from pycocotools import mask as coco
from tiny_grounding import save_lmm, save_tiny_head

import flmm

REPOSITORY = Path(__file__).resolve().parents[3]
QUESTION = "What is in the picture?"


@dataclass(frozen=True)
class Models:
    lmm: Path
    head: Path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("models")
    lmm = save_lmm(folder / "lmm")
    return Models(lmm, save_tiny_head(folder / "head", str(lmm)))


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def scene(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("pictures") / "scene.png"
    values = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return str(path)


def is_refused(ended: CommandResult, *parts: str) -> bool:
    """Exit code 2, nothing on standard output, one line with the remedy on standard error."""
    one_line = ended.err.startswith("flmm: ") and ended.err.count("\n") == 1
    return (ended.code, ended.out) == (2, "") and one_line and all(p in ended.err for p in parts)


def list_files() -> list[str]:
    return sorted(path.name for path in Path.cwd().iterdir())


def test_project_installs_this_command() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"flmm": "flmm.cli.main:run"}
    assert project["version"] == flmm.__version__


def test_help_is_quick_and_names_every_command() -> None:
    begin = time.perf_counter()
    ended = run_in_new_process("--help")
    print(f"flmm --help: {time.perf_counter() - begin:.2f} s")
    assert (ended.code, ended.err) == (0, "")
    for command in ("chat", "segment", "attend", "think", "models"):
        assert command in ended.out


def test_without_arguments_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    ended = run_in_process([], capsys)
    assert ended.code == 0
    assert "Usage: flmm" in ended.out
    assert run_in_process(["--version"], capsys).out == f"flmm {flmm.__version__}\n"


def test_chat_in_a_new_process(models: Models, scene: str) -> None:
    ended = run_in_new_process(
        "chat", scene, QUESTION, "--model", str(models.head), "--max-new-tokens", "30", "--json"
    )
    assert ended.code == 0, ended.err
    content = json.loads(ended.out)
    assert ended.out.count("\n") == 1
    assert ended.err == ""
    assert list_files() == []
    assert content["size"] == [40, 60]
    assert (content["model"], content["lmm"]) == (str(models.head), str(models.lmm))
    for phrase in content["phrases"]:
        assert content["text"][phrase["start"] : phrase["end"]] == phrase["text"]
        assert coco.decode(phrase["mask"]).sum() == phrase["area"]


def test_chat_prints_the_answer_and_the_overlay_s_path(
    models: Models, scene: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model", str(models.head), "--max-new-tokens", "30"]
    ended = run_in_process(["chat", scene, QUESTION, *options], capsys)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.endswith("Overlay: scene-chat.png\n")
    assert "score" in ended.out
    assert list_files() == ["scene-chat.png"]
    with Image.open("scene-chat.png") as overlay:
        assert overlay.size[0] == 720


def test_overlays_replace_nothing(
    models: Models, scene: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model", str(models.head), "--no-refine"]
    other = Path("other")
    other.mkdir()
    with Image.open(scene) as picture:
        picture.save(other / "scene.bmp")
    seen = []
    for image in (scene, str(other / "scene.bmp"), scene):
        assert run_in_process(["segment", image, "grass", *options], capsys).code == 0
        seen.append({name: Path(name).read_bytes() for name in list_files() if name != "other"})
    assert list(seen[-1]) == ["scene-segment-2.png", "scene-segment-3.png", "scene-segment.png"]
    for before, after in pairwise(seen):
        assert before.items() < after.items()
    Path("mine.png").write_bytes(b"")
    ended = run_in_process(["segment", scene, "grass", *options, "--out", "mine.png"], capsys)
    assert ended.code == 0
    assert Path("mine.png").read_bytes(), "a file that the user names is replaced"


def test_segment(models: Models, scene: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["segment", scene, "the cat", "grass", "--model", str(models.head)]
    ended = run_in_process([*arguments, "--json", "--out", "masks.webp"], capsys)
    assert ended.code == 0
    content = json.loads(ended.out)
    assert content["text"] == "the cat, grass"
    assert [phrase["text"] for phrase in content["phrases"]] == ["the cat", "grass"]
    assert list_files() == ["masks.webp"]
    ended = run_in_process([*arguments, "--no-refine"], capsys)
    assert "the cat, grass" in ended.out


def test_attend(models: Models, scene: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["attend", scene, QUESTION, "--answer", "the cat and the dog"]
    arguments += ["--model", str(models.head)]
    ended = run_in_process([*arguments, "--word", "dog", "--layer", "1", "--json"], capsys)
    assert (ended.code, ended.err, list_files()) == (0, "", [])
    content = json.loads(ended.out)
    assert (content["text"], content["layer"], content["head"]) == ("the cat and the dog", 1, None)
    assert [(word["text"], word["start"]) for word in content["words"]] == [("dog", 16)]
    assert np.shape(content["words"][0]["map"]) == tuple(content["grid"])
    ended = run_in_process(arguments, capsys)
    assert ended.out.startswith("the cat and the dog\n")
    assert ended.out.endswith("Figure: scene-attend.png\n")
    assert list_files() == ["scene-attend.png"]


def test_think(models: Models, scene: str, capsys: pytest.CaptureFixture[str]) -> None:
    question = "What is on the grass?"
    arguments = ["think", scene, question, "--model", str(models.head), "--max-new-tokens", "20"]
    ended = run_in_process([*arguments, "--locate", "question", "--crop", "mask", "--json"], capsys)
    assert (ended.code, ended.err, list_files()) == (0, "", [])
    content = json.loads(ended.out)
    assert (content["question"], content["locate"], content["crop"]) == (
        question, "question", "mask",
    )  # fmt: skip
    assert content["first"]["text"] == question
    assert content["located"] in content["first"]["phrases"]
    ended = run_in_process([*arguments, "--out", "thought.png"], capsys)
    assert (ended.code, ended.err, list_files()) == (0, "", ["thought.png"])
    for line in ("Before: ", "Located: ", "After: ", "Figure: thought.png"):
        assert f"\n{line}" in f"\n{ended.out}"


def test_models(capsys: pytest.CaptureFixture[str]) -> None:
    ended = run_in_process(["models"], capsys)
    assert ended.code == 0
    assert max(map(len, ended.out.splitlines())) <= 80
    assert "thisisiron/Ovis2-1B-hf" in ended.out
    content = json.loads(run_in_process(["models", "--json"], capsys).out)
    by_type = {family["model_types"][0]: family for family in content["families"]}
    assert by_type["llava"]["adapter"] == "LlavaAdapter"
    assert "end to end" in by_type["llava"]["verified"]
    assert by_type["llava"]["published"]
    assert not by_type["ovis2"]["published"]
    assert all(family["verified"] for family in content["families"])
    types = {entry["model_type"]: entry for entry in content["types"]}
    assert f"transformers {content['transformers']} has {len(types)} types of LMMs:" in ended.out
    assert types["llava"]["reader"] == "own file"
    assert types["llama4"]["needs_torchvision"]
    assert "llama4*" in ended.out
    assert types["aya_vision"]["verified"]
    assert all(name in ended.out for name in types)
    assert "facebook/sam2.1-hiera-small" in ended.out
    assert ["sam2", "sam2_video"] in [sam["model_types"] for sam in content["sams"]]


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
        ["chat", scene, QUESTION, "--dtype", "int4"],
        ["chat", scene, QUESTION, "--min-score", "2"],
        ["chat", scene, QUESTION, "--lmm", "embedded:nothing"],
        ["segment", scene, "cat", "--out", "overlay.gif"],
        ["attend", scene, QUESTION, "--answer", " "],
        ["think", scene, " "],
        ["ground", scene, "a cat", "--sam", "embedded:nothing"],
        ["batch", "nowhere", QUESTION],
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
        (["think", QUESTION, "--margin", "-1"], "margin is -1.0; give 0 or more"),
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
