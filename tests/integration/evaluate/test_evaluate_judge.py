"""``flmm evaluate viscot --think --judge``: judgements, their cache, and failing judges."""

import shutil
import socket
from pathlib import Path

import pytest
from command import run_in_process, run_in_two_processes
from evaluation_world import command
from fake_judge import Reply, run_fake_judge
from serving import run_server, tiny_grounder
from tiny_grounding import save_lmm, save_tiny_head

from flmm.data.fixtures import write_viscot
from flmm.errors import InputError
from flmm.evaluate.answers import judge as judge_module
from flmm.evaluate.answers.judge import Judge, build_prompt
from flmm.evaluate.answers.judgements import judge_answers
from flmm.evaluate.reports import build_report
from flmm.evaluate.results import read_rows, write_rows
from flmm.evaluate.rows import AnswerRow, JudgementRow
from flmm.serve.settings import ServerSettings


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command without --out and --judge."""
    folder = tmp_path_factory.mktemp("world")
    head = save_tiny_head(folder / "head", str(save_lmm(folder / "lmm")))
    data = write_viscot(folder / "data", 1)
    return [
        "evaluate", "viscot", "--think", "--file", str(data.folder / "gqa.json"), "--pictures",
        str(data.pictures), "--model", str(head), "--device", "cpu", "--json",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def answered(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run without a judge."""
    out = tmp_path_factory.mktemp("answered") / "out"
    first, second = run_in_two_processes(*arguments, "--out", str(out))
    assert (first.code, second.code) == (0, 0), first.err
    return out


@pytest.fixture
def out(answered: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(answered, tmp_path / "out"))


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.001)
    monkeypatch.setenv("OPENAI_API_KEY", "my key")


def distinct(rows: list[AnswerRow]) -> set[tuple[str, str, str]]:
    return {(row.question, row.true_answer, row.answer) for row in rows}


def test_every_answer_is_judged_once(
    arguments: list[str], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = read_rows(out, AnswerRow)
    good = rows[0]

    def answer(body: dict[str, object]) -> Reply:
        return "Score: 1" if build_prompt(good) in str(body["messages"][0]["content"]) else "0"  # type: ignore[index]

    with run_fake_judge(answer) as judge:
        judged = [*arguments, "--out", str(out), "--judge", judge.url, "small"]
        report = command(judged, capsys)
        assert sorted(judge.prompts) == sorted({build_prompt(row) for row in rows})
        assert len(judge.prompts) == len(distinct(rows))
        assert set(judge.keys) == {"Bearer my key"}
        assert {(body["model"], body["temperature"]) for body in judge.bodies} == {("small", 0)}
        num_asked = len(judge.bodies)
        assert command(judged, capsys) == report
        assert len(judge.bodies) == num_asked
        report = command([*judged[:-1], "large"], capsys)
        assert len(judge.bodies) == 2 * num_asked
    assert command([*arguments, "--out", str(out)], capsys)["tables"] == report["tables"]
    table_again = command(["evaluate", "--table", str(out), "--json"], capsys)
    assert table_again["tables"] == report["tables"]
    rows = read_rows(out, AnswerRow)
    key = (good.question, good.true_answer, good.answer)
    assert {row.judge for row in rows} == {"large"}
    assert [row.judgement for row in rows] == [
        float((row.question, row.true_answer, row.answer) == key) for row in rows
    ]
    judgements = read_rows(out, JudgementRow)
    assert [row.judge for row in judgements] == ["small"] * num_asked + ["large"] * num_asked
    assert {row.reply for row in judgements} == {"Score: 1", "0"}
    (table,) = build_report(out).tables
    plain = [row.judgement for row in rows if row.locate is None]
    assert table.rows[0].scores["judge"] == 100 * sum(filter(None, plain)) / len(plain)
    assert table.note == "Judge: large."


def test_the_judge_that_was_asked_last_stays(
    arguments: list[str], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with run_fake_judge(lambda _: "Score: 1") as judge:
        for model in ("small", "large", "small"):
            judge_answers(out, Judge(judge.url, model))
        assert len(judge.bodies) == 2 * len(distinct(read_rows(out, AnswerRow)))
    command([*arguments, "--out", str(out)], capsys)
    (table,) = build_report(out).tables
    assert table.note == "Judge: small."


def test_what_was_judged_is_kept(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flmm.evaluate.answers.judgements._JUDGEMENTS_PER_WRITE", 4)
    monkeypatch.setattr("flmm.evaluate.answers.judgements._QUESTIONS_AT_ONCE", 1)
    num_answers = len(distinct(read_rows(out, AnswerRow)))
    assert num_answers > 8
    progress: list[tuple[int, int]] = []

    def fail_after_six(_: dict[str, object]) -> Reply:
        return "Score: 0.5" if len(judge.bodies) <= 6 else (503, "busy")

    with run_fake_judge(fail_after_six) as judge:
        with pytest.raises(InputError, match=r"gives no answer \(.*503.*busy.*what it has judged"):
            judge_answers(out, Judge(judge.url, "m"), lambda *step: progress.append(step))
        # The seventh is tried again, and so are questions that were asked at the same time.
        assert len(judge.bodies) >= 6 + 1 + judge_module._MAX_RETRIES
    assert len(read_rows(out, JudgementRow)) == 6
    assert progress == [(0, num_answers), (4, num_answers)]
    with run_fake_judge(lambda _: "Score: 0.5") as judge:
        judge_answers(out, Judge(judge.url, "m"), lambda *step: progress.append(step))
        assert len(judge.bodies) == num_answers - 6
    assert progress[2] == (6, num_answers)
    assert progress[-1] == (num_answers, num_answers)
    assert {row.judgement for row in read_rows(out, AnswerRow)} == {0.5}


def test_a_short_failure_is_tried_again(out: Path) -> None:
    def fail_often(_: dict[str, object]) -> Reply:
        return (429, "slower") if len(judge.bodies) % 2 else "Score: 1"

    with run_fake_judge(fail_often) as judge:
        judge_answers(out, Judge(judge.url, "m"))
    assert {row.judgement for row in read_rows(out, AnswerRow)} == {1.0}


def test_a_refused_question_and_a_strange_reply_have_no_score(out: Path) -> None:
    rows = read_rows(out, AnswerRow)
    refused, strange = rows[0], next(row for row in rows if row.answer != rows[0].answer)

    def answer(body: dict[str, object]) -> Reply:
        if body["messages"][0]["content"] == build_prompt(refused):  # type: ignore[index]
            return 400, "the filter of content\nrefuses this"
        same = body["messages"][0]["content"] == build_prompt(strange)  # type: ignore[index]
        return "Who knows?" if same else "Score: 1"

    with run_fake_judge(answer) as judge:
        judge_answers(out, Judge(judge.url, "m"))
    unscored = [row for row in read_rows(out, JudgementRow) if row.score is None]
    assert len(unscored) == 2
    assert "the filter of content refuses this" in "".join(row.reply for row in unscored)
    rows = read_rows(out, AnswerRow)
    num_unscored = sum(row.judgement is None for row in rows)
    (table,) = build_report(out).tables
    assert table.note == (
        f"Judge: m. {num_unscored} of {len(rows)} answers have no score of its own and are left"
        " out."
    )
    assert all(row.scores["judge"] == 100 for row in table.rows)


def test_a_model_that_takes_no_temperature(out: Path) -> None:
    def answer(body: dict[str, object]) -> Reply:
        if "temperature" in body:
            return 400, "temperature 0 is not supported"
        return "Score: 0"

    with run_fake_judge(answer) as judge:
        judge_answers(out, Judge(judge.url, "m"))
    assert {row.judgement for row in read_rows(out, AnswerRow)} == {0.0}


def test_another_prompt_is_asked_again(out: Path) -> None:
    with run_fake_judge(lambda _: "Score: 1") as judge:
        judge_answers(out, Judge(judge.url, "m"))
        judgements = read_rows(out, JudgementRow)
        changed = [JudgementRow(**{**vars(row), "prompt": "older"}) for row in judgements]
        write_rows(out, JudgementRow, changed)
        judge_answers(out, Judge(judge.url, "m"))
        assert len(judge.bodies) == 2 * len(judgements)


def closed_port() -> str:
    with socket.socket() as free_socket:
        free_socket.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free_socket.getsockname()[1]}/v1"


@pytest.mark.parametrize(
    ("reply", "part"),
    [
        ((401, "wrong key\nof yours"), "gives no answer (Error code: 401 - "),
        ((404, "no model m"), "no model m"),
        ((500, "broken"), "broken"),
        ("<html><body>Welcome</body></html>", "does the URL end in /v1?"),
        ('{"choices": [null]}', "its answer has no message"),
        ('{"choices": [{"message": {"content": [1]}}]}', "gives no scores: "),
        ("I am no\njudge.", "gives no scores: "),
        ((400, "no such parameter"), "no such parameter"),
    ],
)
def test_a_failing_judge_is_told_in_one_line(
    reply: Reply, part: str, arguments: list[str], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with run_fake_judge(lambda _: reply) as judge:
        ended = run_in_process([*arguments, "--out", str(out), "--judge", judge.url, "m"], capsys)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("flmm: the judge 'm' ")
    assert ended.err.count("\n") == 1
    assert part in ended.err
    assert not (out / "judgements.parquet").exists()


def test_a_judge_that_is_not_there(out: Path) -> None:
    with pytest.raises(InputError, match=r"gives no answer \(Connection error.*refused"):
        judge_answers(out, Judge(closed_port(), "m"))


def test_a_server_of_flmm_is_asked(out: Path) -> None:
    """A random LMM gives no scores; what matters is that it answers."""
    with (
        run_server(tiny_grounder(), ServerSettings(port=0)) as address,
        pytest.raises(InputError, match=r"gives no scores: .* replies such as"),
    ):
        judge_answers(out, Judge(f"{address}/v1", "tiny"))
