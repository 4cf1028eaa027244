"""Tables of answers: one a data set, with a line for each way of asking, and their mean."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flmm.errors import InputError
from flmm.evaluate.answers.ways import CLOSER_LOOKS, PLAIN_LABEL
from flmm.evaluate.benchmark import read_run_record
from flmm.evaluate.counts import count_samples
from flmm.evaluate.results import read_rows
from flmm.evaluate.rows import AnswerRow, SampleRow
from flmm.evaluate.score_tables import (
    EvaluationReport,
    ScoreRow,
    ScoreTable,
)

_LABELS = {(None, None): PLAIN_LABEL} | {
    (look.locate, look.crop): look.label for look in CLOSER_LOOKS
}


def build_answer_report(out: Path) -> EvaluationReport:
    """Return the tables of a finished run of questions that were answered.

    Raises:
        InputError: the run is not finished, a file is damaged, or nothing could be measured.
    """
    rows = read_rows(out, AnswerRow)
    counts = count_samples(read_rows(out, SampleRow))
    if not rows:
        raise InputError(f"nothing was measured ({counts.summary}); check the benchmark's pictures")
    by_dataset: dict[str, list[AnswerRow]] = {}
    for row in rows:
        by_dataset.setdefault(row.dataset, []).append(row)
    tables = [_build_table(dataset, members) for dataset, members in by_dataset.items()]
    if len(tables) > 1:
        tables.append(_mean_table(tables))
    return EvaluationReport(read_run_record(out), tuple(tables), counts)


def _build_table(dataset: str, rows: Sequence[AnswerRow]) -> ScoreTable:
    score_rows = []
    for (locate, crop), label in _LABELS.items():
        members = [row for row in rows if (row.locate, row.crop) == (locate, crop)]
        score_rows.append(ScoreRow(label, len(members), _scores(members)))
    return ScoreTable(f"Answers: {dataset}", "questions", tuple(score_rows), _judge_note(rows))


def _scores(rows: Sequence[AnswerRow]) -> dict[str, float]:
    scores = {
        "exact match": _percent([row.exact_match for row in rows]),
        "containment": _percent([row.containment for row in rows]),
        "ANLS": _percent([row.anls for row in rows]),
    }
    if rows[0].judge is not None:
        scores["judge"] = _percent([row.judgement for row in rows if row.judgement is not None])
    return scores


def _percent(values: Sequence[float]) -> float:
    return 100 * float(np.mean(values)) if values else float("nan")


def _judge_note(rows: Sequence[AnswerRow]) -> str | None:
    if rows[0].judge is None:
        return None
    note = f"Judge: {rows[0].judge}."
    if num_unscored := sum(row.judgement is None for row in rows):
        note += f" {num_unscored} of {len(rows)} answers have no score of its own and are left out."
    return note


def _mean_table(tables: Sequence[ScoreTable]) -> ScoreTable:
    """Return the mean over data sets, each of the same weight."""
    rows = []
    for number, row in enumerate(tables[0].rows):
        own = [table.rows[number] for table in tables]
        scores = {
            column: float(np.mean([each.scores[column] for each in own])) for column in row.scores
        }
        rows.append(ScoreRow(row.name, sum(each.count for each in own), scores))
    return ScoreTable(f"Answers: mean of {len(tables)} data sets", "questions", tuple(rows))
