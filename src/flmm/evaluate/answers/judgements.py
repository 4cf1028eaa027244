"""Judgements of a run's answers: asked for once, kept on disk, joined to the answers.

out/judgements.parquet    one row a judgement, written again every few questions
out/answers.parquet       has the last judge's scores
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

from flmm.errors import InputError
from flmm.evaluate.answers.judge import PROMPT_FINGERPRINT, Judge
from flmm.evaluate.results import has_rows, read_rows, write_rows
from flmm.evaluate.rows import AnswerRow, JudgementRow

_QUESTIONS_AT_ONCE = 8
_JUDGEMENTS_PER_WRITE = 64
"""So many are lost at most when a run is killed."""

_Judged = tuple[str, str, str]
"""What a judgement depends on: question, true answer, answer."""


def judge_answers(
    out: Path, judge: Judge, advance: Callable[[int, int], None] = lambda _done, _total: None
) -> None:
    """Judge all answers of a finished run that this judge has not judged before.

    Args:
        out: the folder of the run.
        judge: the judge.
        advance: called with how many different answers are judged, and how many there are.

    Raises:
        InputError: the judge fails or none of its replies has a score; what was judged is kept.
    """
    answers = {_key(row): row for row in read_rows(out, AnswerRow)}
    # The judge that is asked last comes last (``join_last_judge``).
    judgements = sorted(_read_judgements(out), key=lambda row: _is_of(row, judge.model))
    own = {_key(row): row for row in judgements if _is_of(row, judge.model)}
    missing = [row for key, row in answers.items() if key not in own]
    num_done = len(answers) - len(missing)
    advance(num_done, len(answers))
    has_score = any(row.score is not None for row in own.values())
    for start in range(0, len(missing), _JUDGEMENTS_PER_WRITE):
        judged, error = _judge_at_once(judge, missing[start : start + _JUDGEMENTS_PER_WRITE])
        has_score = has_score or any(row.score is not None for row in judged)
        if has_score:
            judgements = [*judgements, *judged]
            write_rows(out, JudgementRow, judgements)
        if error is not None:
            raise error
        if not has_score:
            raise InputError(
                f"the judge {judge.model!r} gives no scores: {len(judged)} replies such as"
                f" {judged[0].reply[:200]!r}; choose another --judge"
            )
        num_done += len(judged)
        advance(num_done, len(answers))
    if not missing:
        write_rows(out, JudgementRow, judgements)
    _join(out, judge.model)


def join_last_judge(out: Path) -> None:
    """Give the answers of a run the scores of the judge that was asked last, if there was one."""
    models = [row.judge for row in _read_judgements(out) if row.prompt == PROMPT_FINGERPRINT]
    if models:
        _join(out, models[-1])


def _judge_at_once(
    judge: Judge, answers: Sequence[AnswerRow]
) -> tuple[list[JudgementRow], InputError | None]:
    """Judge answers in several threads; return the judgements, and the error that ended it."""
    with ThreadPoolExecutor(_QUESTIONS_AT_ONCE) as pool:
        futures = [pool.submit(judge.judge, answer) for answer in answers]
        wait(futures, return_when="FIRST_EXCEPTION")
        for future in futures:
            future.cancel()
    judged: list[JudgementRow] = []
    error: InputError | None = None
    for future in futures:
        if future.cancelled():
            continue
        try:
            judged.append(future.result())
        except InputError as failure:
            error = failure
    return judged, error


def _join(out: Path, model: str) -> None:
    scores = {_key(row): row.score for row in _read_judgements(out) if _is_of(row, model)}
    write_rows(
        out,
        AnswerRow,
        [
            replace(row, judge=model, judgement=scores.get(_key(row)))
            for row in read_rows(out, AnswerRow)
        ],
    )


def _is_of(row: JudgementRow, model: str) -> bool:
    return row.judge == model and row.prompt == PROMPT_FINGERPRINT


def _key(row: AnswerRow | JudgementRow) -> _Judged:
    return row.question, row.true_answer, row.answer


def _read_judgements(out: Path) -> list[JudgementRow]:
    return read_rows(out, JudgementRow) if has_rows(out, JudgementRow) else []
