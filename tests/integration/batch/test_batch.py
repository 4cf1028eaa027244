"""``flmm batch``: many pictures into one results file that a later run resumes."""

import json
from pathlib import Path

import numpy as np
import pytest
from command import run_in_process
from PIL import Image
from tiny_grounding import save_lmm, save_tiny_head

import flmm

QUESTION = "What is on the grass?"
Line = dict[str, dict[str, object]]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models")
    return str(save_tiny_head(folder / "head", str(save_lmm(folder / "lmm"))))


@pytest.fixture(autouse=True)
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five pictures of different sizes, one of them damaged, and a file that is none."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "pictures"
    (folder / "inner").mkdir(parents=True)
    random = np.random.default_rng(0)
    for name, size in (("a", (40, 60)), ("b", (60, 33)), ("inner/c", (50, 50)), ("d", (20, 20))):
        pixels = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    (folder / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    (folder / "notes.txt").write_text("not a picture")
    return folder


def options(head: str) -> list[str]:
    return ["--model", head, "--max-new-tokens", "12", "--together", "3"]


def read_lines(file: str = "results.jsonl") -> list[Line]:
    """The results without their timings."""
    results = [json.loads(line) for line in Path(file).read_text().splitlines()]
    for line in results:
        line.get("answer", {}).pop("timings", None)
    return results


def test_each_picture_of_a_folder_has_the_answer_of_chat(
    pictures: Path, head: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = run_in_process(
        ["batch", "pictures", QUESTION, "--overlays", "overlays", *options(head)], capsys
    )
    assert (ended.code, ended.err) == (0, "")
    assert (
        ended.out
        == "5 pictures, 1 of them with an error in the place of an answer: results.jsonl\n"
    )
    results = read_lines()
    assert [line["task"] for line in results] == [
        {"image": name, "question": QUESTION}
        for name in ("a.png", "b.png", "bad.jpg", "d.png", "inner/c.png")
    ]
    assert "damaged" in str(results[2]["error"])
    grounder = flmm.Grounder.from_pretrained(head)
    for line in results[:2] + results[3:]:
        image = pictures / str(line["task"]["image"])
        alone = dict(grounder.chat(image, QUESTION, max_new_tokens=12).to_dict())
        assert line["answer"]["text"] == alone["text"]
        assert line["answer"]["size"] == alone["size"]
    overlays = sorted(file.name for file in Path("overlays").iterdir())
    assert overlays == ["000001-a.png", "000002-b.png", "000004-d.png", "000005-c.png"]


def test_list_with_questions_and_phrases(head: str, capsys: pytest.CaptureFixture[str]) -> None:
    tasks: list[dict[str, object]] = [
        {"image": "pictures/a.png", "question": "What?"},
        {"image": "pictures/a.png"},
        {"image": "pictures/b.png", "phrases": ["the cat", "grass"]},
    ]
    Path("list.jsonl").write_text("\n".join(map(json.dumps, tasks)) + "\n\n")
    arguments = ["batch", "list.jsonl", QUESTION, *options(head)]
    ended = run_in_process([*arguments, "--out", "out.jsonl", "--json"], capsys)
    assert (ended.code, ended.err) == (0, "")
    assert json.loads(ended.out) == {"out": "out.jsonl", "pictures": 3, "failed": 0}
    results = read_lines("out.jsonl")
    assert [line["task"] for line in results] == [
        tasks[0],
        {**tasks[1], "question": QUESTION},
        tasks[2],
    ]
    assert results[2]["answer"]["text"] == "the cat, grass"


def test_list_with_texts(head: str, capsys: pytest.CaptureFixture[str]) -> None:
    tasks: list[dict[str, object]] = [
        {"image": "pictures/a.png", "text": "A cat on grass.", "phrases": ["grass", "cat"]},
        {"image": "pictures/b.png", "text": "A cat on grass.", "question": "What is it?"},
        {"image": "pictures/b.png", "text": "A cat.", "phrases": ["dog"]},
    ]
    Path("list.jsonl").write_text("\n".join(map(json.dumps, tasks)))
    ended = run_in_process(["batch", "list.jsonl", QUESTION, *options(head)], capsys)
    assert ended.code == 0
    results = read_lines()
    assert [line["task"] for line in results] == tasks
    grounder = flmm.Grounder.from_pretrained(head)
    expected = [
        grounder.ground("pictures/a.png", "A cat on grass.", ["grass", "cat"]),
        grounder.ground("pictures/b.png", "A cat on grass.", question="What is it?"),
    ]
    for line, alone in zip(results[:2], expected, strict=True):
        assert line["answer"]["phrases"] == json.loads(json.dumps(alone.to_dict()["phrases"]))
    assert "'dog' is not in the text" in str(results[2]["error"])


def test_a_question_that_is_too_long_is_an_error_of_its_own(
    head: str, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = ["What?", "a cat " * 3000, "Where?"]
    tasks = [{"image": "pictures/a.png", "question": question} for question in questions]
    Path("list.jsonl").write_text("\n".join(map(json.dumps, tasks)))
    assert run_in_process(["batch", "list.jsonl", *options(head)], capsys).code == 0
    results = read_lines()
    assert ["answer" in line for line in results] == [True, False, True]
    assert "give shorter texts" in str(results[1]["error"])


def test_interrupted_run_is_resumed(head: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["batch", "pictures", QUESTION, *options(head)]
    assert run_in_process(arguments, capsys).code == 0
    results, file = read_lines(), Path("results.jsonl")
    content = file.read_bytes()
    first = content.index(b"\n") + 1
    for kept in (first, first + 20, len(content) - 1, len(content)):
        file.write_bytes(content[:kept])
        ended = run_in_process(arguments, capsys)
        assert (ended.code, ended.err) == (0, "")
        assert [line["task"] for line in read_lines()] == [line["task"] for line in results]
        assert file.read_bytes()[:first] == content[:first]
    assert file.read_bytes() == content


def test_results_of_other_tasks_or_models_are_kept(
    head: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_in_process(["batch", "pictures", QUESTION, *options(head)], capsys).code == 0
    content = Path("results.jsonl").read_bytes()
    for question, model in (("Another?", head), (QUESTION, "embedded:head")):
        ended = run_in_process(["batch", "pictures", question, "--model", model], capsys)
        assert ended.code == 2
        assert "line 1, is no result of this work and model; choose another file" in ended.err
    assert Path("results.jsonl").read_bytes() == content


def test_results_of_other_masks_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["batch", "pictures", QUESTION, "--lmm", "embedded:lmm", "--max-new-tokens", "4"]
    assert run_in_process([*command, "--sam", "none"], capsys).code == 0
    content = Path("results.jsonl").read_bytes()
    for changes in (["--sam", "embedded:sam"], ["--sam", "none", "--no-refine"]):
        ended = run_in_process([*command, *changes], capsys)
        assert ended.code == 2
        assert "line 1, is no result of this work and model; choose another file" in ended.err
    assert Path("results.jsonl").read_bytes() == content
    assert run_in_process([*command, "--sam", "none"], capsys).code == 0
    assert Path("results.jsonl").read_bytes() == content


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("{", "'list.jsonl', line 2: Invalid JSON"),
        ('{"image": "a.png"}', "line 2: give either question or phrases with the image"),
        ('{"image": "a.png", "question": "q", "phrases": ["p"]}', "line 2: give either"),
        ('{"image": "a.png", "phrases": []}', "line 2: phrases"),
        ('{"image": "a.png", "phrase": "p"}', "line 2: phrase: Extra inputs"),
        ('{"image": 3, "question": "q"}', "line 2: image: Input should be a valid string"),
    ],
)
def test_bad_line_is_named(line: str, part: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("list.jsonl").write_text('{"image": "a.png", "question": "q"}\n' + line)
    ended = run_in_process(["batch", "list.jsonl"], capsys)
    assert ended.code == 2
    assert part in ended.err
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["pictures"], "give a QUESTION"),
        (["nowhere", "q"], "'nowhere' cannot be read"),
        (["empty/folder", "q"], "has no picture"),
        (["pictures", "q", "--out", "pictures"], "cannot be written"),
        (["pictures", "q", "--overlays", "pictures/a.png"], "cannot be made"),
    ],
)
def test_bad_arguments_are_refused(
    arguments: list[str], part: str, head: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty/folder").mkdir(parents=True)
    ended = run_in_process(["batch", *arguments, "--model", head], capsys)
    assert ended.code == 2
    assert part in ended.err
    assert ended.err.count("\n") == 1
