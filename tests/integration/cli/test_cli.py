"""The command as users run it: its output, exit code and files."""

import json
import time
import tomllib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from command import list_files, run_in_new_process, run_in_process
from command_fixtures import Models
from PIL import Image
from pycocotools import mask as coco

import flmm

REPOSITORY = Path(__file__).resolve().parents[3]
QUESTION = "What is in the picture?"

pytest_plugins = ("command_fixtures",)
pytestmark = pytest.mark.usefixtures("in_empty_folder")


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
