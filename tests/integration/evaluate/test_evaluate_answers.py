"""``flmm evaluate viscot --think``: answers in every way, their scores, tables and rows."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from command import CommandResult, run_in_new_process, run_in_process
from evaluation_world import command
from tag_questions import write_tag_questions
from tiny_grounding import save_lmm, save_tiny_head

from flmm.data.fixtures import write_plain, write_viscot
from flmm.data.readers.viscot import read_viscot
from flmm.evaluate.answers.evaluator import SHORT_ANSWER_REQUEST
from flmm.evaluate.answers.scores import normalised_levenshtein_similarity
from flmm.evaluate.answers.ways import CLOSER_LOOKS, MAX_NEW_TOKENS
from flmm.evaluate.results import read_rows
from flmm.evaluate.rows import AnswerRow, SampleRow
from flmm.grounding.grounder import Grounder
from flmm.pictures.reading import read_picture

NUM_WAYS = 1 + len(CLOSER_LOOKS)


@dataclass(frozen=True)
class AnswerSetup:
    """A tiny LMM and head, a benchmark of two files, and its answers."""

    folder: Path
    report: dict[str, object]

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def arguments(self, out: Path) -> list[str]:
        return [
            "evaluate", "viscot", "--think", "--file", str(self.folder / "data" / "benchmark"),
            "--pictures", str(self.folder / "data"), "--model", str(self.folder / "head"),
            "--device", "cpu", "--out", str(out), "--json",
        ]  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> AnswerSetup:
    folder = tmp_path_factory.mktemp("answers")
    save_tiny_head(folder / "head", str(save_lmm(folder / "lmm")))
    data = write_viscot(folder / "data", 1)
    questions = json.loads((data.folder / "gqa.json").read_text())
    (data.folder / "docvqa.json").write_text(json.dumps(questions[:1]))
    setup = AnswerSetup(folder, {})
    ended = run_in_new_process(*setup.arguments(setup.out))
    assert ended.code == 0, ended.err
    return AnswerSetup(folder, json.loads(ended.out))


def test_each_data_set_has_a_table_and_there_is_their_mean(world: AnswerSetup) -> None:
    rows = read_rows(world.out, AnswerRow)
    tables = world.report["tables"]
    assert isinstance(tables, list)
    titles = [table["title"] for table in tables]
    assert titles == ["Answers: docvqa", "Answers: gqa", "Answers: mean of 2 data sets"]
    for table, dataset in zip(tables[:2], ("docvqa", "gqa"), strict=True):
        assert [row["name"] for row in table["rows"]] == [
            "plain", *(look.label for look in CLOSER_LOOKS),
        ]  # fmt: skip
        for number, line in enumerate(table["rows"]):
            members = [row for row in rows if row.dataset == dataset][number::NUM_WAYS]
            assert line["questions"] == len(members)
            assert line["exact match"] == 100 * np.mean([row.exact_match for row in members])
            assert line["containment"] == 100 * np.mean([row.containment for row in members])
            assert line["ANLS"] == pytest.approx(100 * np.mean([row.anls for row in members]))
            assert "judge" not in line
    for mean, first, second in zip(*(table["rows"] for table in tables[::-1]), strict=True):
        assert mean["questions"] == first["questions"] + second["questions"]
        assert mean["containment"] == (first["containment"] + second["containment"]) / 2


def test_rows_have_what_think_says(world: AnswerSetup) -> None:
    grounder = Grounder.from_pretrained(str(world.folder / "head"), device="cpu")
    samples = read_viscot(world.folder / "data" / "benchmark" / "gqa.json", world.folder / "data")
    text = samples[0].texts[0]
    rows = [row for row in read_rows(world.out, AnswerRow)
            if (row.dataset, row.text_identity) == ("gqa", text.identity)]  # fmt: skip
    assert len(rows) == NUM_WAYS
    plain, *closer = rows
    picture = read_picture(samples[0].picture)
    asked = f"{text.text} {SHORT_ANSWER_REQUEST}"
    prompt = grounder.adapter.build_prompt(picture, asked)
    assert plain.answer == grounder.adapter.generate(prompt, MAX_NEW_TOKENS).text
    assert (plain.locate, plain.crop, plain.located, plain.box) == (None, None, None, (0, 0, 0, 0))
    located = {}
    for row, look in zip(closer, CLOSER_LOOKS, strict=True):
        assert (row.locate, row.crop) == (look.locate, look.crop)
        assert (row.question, row.true_answer) == (text.text, text.answer)
        assert row.anls == normalised_levenshtein_similarity(row.answer, [row.true_answer])
        located[row.locate, row.crop] = row.located
        if look.locate == "truth" or look.crop == "random":
            continue
        # What the question locates is of its own words, not of the request behind them.
        first = grounder.think(
            picture, text.text, locate=look.locate, crop=look.crop, max_new_tokens=MAX_NEW_TOKENS
        )  # fmt: skip
        assert row.located == (first.located and first.located.text)
        assert row.box == first.box
        prompt = grounder.adapter.build_prompt([picture, first.crop], asked)
        assert row.answer == grounder.adapter.generate(prompt, MAX_NEW_TOKENS).text
    assert located["truth", "box"] == text.text
    x0, y0, x1, y1 = closer[-1].box
    left, top, right, bottom = closer[-1].true_box
    assert x0 <= left < right <= x1
    assert y0 <= top < bottom <= y1


def test_question_that_is_too_long_does_not_take_its_pictures_others_with_it(
    world: AnswerSetup, tmp_path: Path
) -> None:
    questions = json.loads((world.folder / "data" / "benchmark" / "gqa.json").read_text())
    text = questions[0]["conversations"][0]["value"]
    endless = json.loads(json.dumps(questions[0]).replace("What is", "dog " * 3000))
    endless["question_id"] = 1
    folder = tmp_path / "benchmark"
    folder.mkdir()
    (folder / "gqa.json").write_text(json.dumps([questions[0], endless]))
    arguments = world.arguments(tmp_path / "out")
    arguments[arguments.index("--file") + 1] = str(folder)
    ended = run_in_new_process(*arguments)
    assert ended.code == 0, ended.err
    (asked,) = {row.question for row in read_rows(tmp_path / "out", AnswerRow)}
    assert asked in text
    assert "skipped question 'dog dog" in ended.err
    (row,) = read_rows(tmp_path / "out", SampleRow)
    assert (row.measured, row.skipped_texts) == (True, 1)


def test_the_same_command_goes_on(
    world: AnswerSetup,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = Path(shutil.copytree(world.out, tmp_path / "out"))
    answers = (out / "answers.parquet").read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr("flmm.evaluate.run.AnswerEvaluator", None)
        again = command(world.arguments(out), capsys)
    assert again["tables"] == world.report["tables"]
    (out / "parts" / "000000.parquet").unlink()
    again = command(world.arguments(out), capsys)
    assert again["tables"] == world.report["tables"]
    assert (out / "answers.parquet").read_bytes() == answers
    assert command(["evaluate", "--table", str(out), "--json"], capsys)["tables"] == again["tables"]
    assert not (out / "results.parquet").exists()
    # A true answer that was changed is another run.
    file = world.folder / "data" / "benchmark" / "gqa.json"
    content = file.read_text()
    try:
        file.write_text(content.replace('"value": "', '"value": "no '))
        ended = run_in_process(world.arguments(out), capsys)
    finally:
        file.write_text(content)
    assert ended.code == 2
    assert "the pictures or texts of 'viscot benchmark' have changed" in ended.err


def test_a_yaml_file_lists_data_sets(
    world: AnswerSetup,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    pictures = world.folder / "data"
    questions = json.loads((pictures / "benchmark" / "docvqa.json").read_text())
    Path("first.json").write_text(json.dumps(questions))
    questions[0]["conversations"][3]["value"] = " "
    first_again = json.loads(Path("first.json").read_text())
    Path("second.json").write_text(json.dumps([*questions, *first_again]))
    Path("mine.yaml").write_text(
        f"- {{kind: viscot, name: first, file: first.json, pictures: {pictures}}}\n"
        f"- {{kind: viscot, name: second, file: second.json, pictures: {pictures}}}\n"
    )
    arguments = ["evaluate", "mine.yaml", "--think", "--lmm", str(world.folder / "lmm"),
                 "--sam", "none", "--device", "cpu", "--json"]  # fmt: skip
    ended = run_in_process(arguments, capsys)
    assert ended.code == 0, ended.err
    assert ended.err == "flmm: left out 1 questions of 'second' without a true answer\n"
    content = json.loads(ended.out)
    assert (content["dataset"], content["model"]) == ("mine", "training-free")
    first, second, mean = content["tables"]
    assert first["rows"] == second["rows"]
    assert mean["rows"][0]["questions"] == 2
    assert content["out"].startswith("flmm-evaluation/mine-think-")


def test_the_embedded_model_is_asked_its_own_questions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tag_questions(tmp_path, 1)
    arguments = ["evaluate", "viscot", "--think", "--file", str(tmp_path / "benchmark"),
                 "--pictures", str(tmp_path), "--out", str(tmp_path / "out"), "--json"]  # fmt: skip
    command([*arguments, "--device", "cpu"], capsys)
    rows = {(row.locate, row.crop): row for row in read_rows(tmp_path / "out", AnswerRow)}
    assert rows["truth", "box"].containment
    assert rows["answer", "box"].containment
    assert not rows[None, None].containment
    assert rows["question", "box"].located == "the balloon"


def test_an_lmm_that_takes_one_picture_is_refused(
    world: AnswerSetup, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lmm = Path(shutil.copytree(world.folder / "lmm", tmp_path / "lmm"))
    (lmm / "chat_template.jinja").write_text(
        "{% for m in messages %}<image>{{ m['content'][-1]['text'] }}{% endfor %} ASSISTANT:"
    )
    out = tmp_path / "out"
    ended = run_in_process([*world.arguments(out), "--lmm", str(lmm)], capsys)
    assert_one_line(ended, "cannot be shown a picture and a part of it at once")
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (
            ["viscot", "--judge", "http://localhost/v1", "m"],
            "--judge scores answers, which",
        ),
        (["viscot", "--think", "--method", "decaf"], "answers, and would ignore --method; leave"),
        (
            ["viscot", "--think", "--beside", "published", "--protocol", "together"],
            "would ignore --protocol, --beside",
        ),
        (["viscot", "--think", "--judge", "localhost", "m"], "give one such as http://localhost"),
        (["viscot", "--think", "--file", "x"], "viscot.pictures: Field required"),
        (["viscot", "--think", "--file", ".", "--pictures", "."], "there is no .json in '.'"),
        (["viscot", "--think", "--file", "x.json", "--pictures", "."], "'x.json' cannot be read"),
        (["plain", "--think", "--file", "plain/texts.jsonl"], "no question with a true answer"),
        (["--table", "x", "--think"], "would ignore --think"),
    ],
)
def test_wrong_arguments_are_reported_in_one_line(
    arguments: list[str],
    part: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    if arguments[0] == "plain":
        write_plain(Path("plain"), 1)
    assert_one_line(run_in_process(["evaluate", *arguments], capsys), part)
    assert not Path("flmm-evaluation").exists()


def assert_one_line(ended: CommandResult, part: str) -> None:
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("flmm: ")
    assert ended.err.count("\n") == 1
    assert part in ended.err
