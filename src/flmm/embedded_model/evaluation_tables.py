"""The output of `flmm stickers evaluate`."""

import json
from collections.abc import Sequence
from dataclasses import asdict

import typer
from rich.console import Console
from rich.table import Table

from flmm.embedded_model.evaluate import EvaluationReport


def print_reports(reports: Sequence[EvaluationReport], as_json: bool) -> None:
    """Print reports as tables, or as one JSON document."""
    if as_json:
        typer.echo(json.dumps([asdict(report) for report in reports], indent=2))
        return
    console = Console()
    for report in reports:
        _print(report, console)


def _print(report: EvaluationReport, console: Console) -> None:
    words = Table("words", "share", title=f"{report.name}: {report.scenes} held-out scenes")
    rows = [
        ("things named in captions", report.words.named_things),
        ("stuff named", report.words.named_stuff),
        ("things and stuff named", report.words.named if report.has_stuff else None),
        ("named things that are absent", report.words.absent),
        *((f"questions: {task}", share) for task, share in report.words.answers.items()),
        ("questions, all but follow-ups", report.words.all_answers),
        ("keyword selector F1", report.words.keyword_f1),
        ("absent expressions with a score under 0.5", report.absent_refused),
    ]
    for name, share in rows:
        if share is not None:
            words.add_row(name, f"{share:.1%}")
    console.print(words)
    for title, scores in (
        ("masks of all phrases of a caption", report.captions),
        ("masks of one referring expression at a time", report.references),
    ):
        table = Table(
            "method", "things cIoU", "things mIoU", "stuff cIoU", "stuff mIoU", "average recall",
            title=title,
        )  # fmt: skip
        for method, score in scores.items():
            values = asdict(score).values()
            table.add_row(method, *("–" if value is None else f"{value:.3f}" for value in values))
        console.print(table)
