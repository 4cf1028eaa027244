"""``flmm batch``: many pictures, many kinds of tasks, results on disk."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
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


def read_results(file: str = "results.jsonl") -> dict[str, Line]:
    """The results by their ids, without timings."""
    lines = [json.loads(line) for line in Path(file).read_text().splitlines()]
    for line in lines:
        line.get("answer", {}).pop("timings", None)
    results = {line.pop("id"): line for line in lines}
    assert len(results) == len(lines)
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
    results = read_results()
    assert {name: line["task"] for name, line in results.items()} == {
        name: {"image": name, "question": QUESTION}
        for name in ("a.png", "b.png", "bad.jpg", "d.png", "inner/c.png")
    }
    assert "damaged" in str(results.pop("bad.jpg")["error"])
    grounder = flmm.Grounder.from_pretrained(head)
    for name, line in results.items():
        alone = dict(grounder.chat(pictures / name, QUESTION, max_new_tokens=12).to_dict())
        assert line["answer"]["text"] == alone["text"]
        assert line["answer"]["size"] == alone["size"]
    overlays = sorted(file.name[:2] for file in Path("overlays").iterdir())
    assert overlays == ["a-", "b-", "c-", "d-"]


def test_two_batches_side_by_side_have_the_results_of_one_thread(
    pictures: Path, head: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks: list[dict[str, object]] = [{"question": QUESTION}, {"phrases": ["a cat", "grass"]}]
    lines = [
        {"image": f"{name}.png", **task, "id": f"{name} {number}"}
        for number, task in enumerate(tasks)
        for name in ("a", "b", "d")
    ]
    (pictures / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    before = torch.get_num_threads()
    for cores, out in ((1, "alone.jsonl"), (2, "side-by-side.jsonl")):
        torch.set_num_threads(cores)
        try:
            run_in_process(
                ["batch", "pictures/list.jsonl", "--out", out, *options(head), "--together", "1"],
                capsys,
            )
        finally:
            torch.set_num_threads(before)
    assert len(read_results("alone.jsonl")) == 6
    assert read_results("side-by-side.jsonl") == read_results("alone.jsonl")


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
    summary = json.loads(ended.out)
    assert (summary["out"], summary["pictures"], summary["failed"]) == ("out.jsonl", 3, 0)
    results = read_results("out.jsonl")
    assert {name: line["task"] for name, line in results.items()} == {
        "pictures/a.png": tasks[0],
        "pictures/a.png#2": {**tasks[1], "question": QUESTION},
        "pictures/b.png": tasks[2],
    }
    assert results["pictures/b.png"]["answer"]["text"] == "the cat, grass"


def test_several_questions_about_a_picture(head: str, capsys: pytest.CaptureFixture[str]) -> None:
    questions = ["What?", "Where is the cat?", "Why?", "Who?"]
    task = {"id": "first", "image": "pictures/a.png", "questions": questions}
    Path("list.jsonl").write_text(json.dumps(task))
    assert run_in_process(["batch", "list.jsonl", *options(head)], capsys).code == 0
    answers = read_results()["first"]["answers"]
    grounder = flmm.Grounder.from_pretrained(head)
    alone = [
        grounder.chat("pictures/a.png", question, max_new_tokens=12).text for question in questions
    ]
    assert [answer["text"] for answer in answers] == alone  # type: ignore[index]


def test_list_with_texts(head: str, capsys: pytest.CaptureFixture[str]) -> None:
    tasks: list[dict[str, object]] = [
        {"image": "pictures/a.png", "text": "A cat on grass.", "phrases": ["grass", "cat"]},
        {"image": "pictures/b.png", "text": "A cat on grass.", "question": "What is it?"},
        {"image": "pictures/d.png", "text": "A cat.", "phrases": ["dog"]},
    ]
    Path("list.jsonl").write_text("\n".join(map(json.dumps, tasks)))
    ended = run_in_process(["batch", "list.jsonl", QUESTION, *options(head)], capsys)
    assert ended.code == 0
    results = sorted(read_results().values(), key=lambda line: str(line["task"]["image"]))
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
    results = read_results().values()
    assert {line["task"]["question"] for line in results if "answer" in line} == {"What?", "Where?"}
    (failed,) = (line["error"] for line in results if "error" in line)
    assert "give shorter texts" in str(failed)


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("{", "'list.jsonl', line 2: Invalid JSON"),
        ('{"image": "a.png"}', "line 2: give one of question, questions and phrases"),
        ('{"image": "a.png", "question": "q", "phrases": ["p"]}', "line 2: give one of"),
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
        (["pictures", "q", "--out", "pictures/a.png"], "is a file"),
        (["pictures", "q", "--out", "folder.jsonl"], "is a folder"),
        (["pictures", "q", "--shard", "3/3", "--out", "folder"], "0/3, 1/3 or 2/3"),
        (["pictures", "q", "--shard", "0/3"], "needs a folder"),
        (["pictures", "q", "--overlays", "pictures/a.png"], "cannot be made"),
    ],
)
def test_bad_arguments_are_refused(
    arguments: list[str], part: str, head: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty/folder").mkdir(parents=True)
    Path("folder.jsonl").mkdir()
    ended = run_in_process(["batch", *arguments, "--model", head], capsys)
    assert ended.code == 2
    assert part in ended.err
    assert ended.err.count("\n") == 1
