"""The tables of any finished run, from its results alone."""

from pathlib import Path

from flmm.evaluate import score_tables
from flmm.evaluate.answers.tables import build_answer_report
from flmm.evaluate.benchmark import Scoring, read_run_record
from flmm.evaluate.score_tables import EvaluationReport


def build_report(out: Path) -> EvaluationReport:
    """Return the tables of a finished run.

    Raises:
        InputError: the run is not finished, a file is damaged, or nothing could be measured.
    """
    if read_run_record(out).scoring == Scoring.ANSWERS:
        return build_answer_report(out)
    return score_tables.build_report(out)
