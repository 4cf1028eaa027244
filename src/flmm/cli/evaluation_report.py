"""The tables of ``flmm evaluate`` on the console, or as JSON."""

from pathlib import Path
from typing import TYPE_CHECKING

from flmm.cli.console import print_json

if TYPE_CHECKING:
    from rich.table import Table

    from flmm.evaluate.score_tables import EvaluationReport, ScoreTable


def print_report(report: "EvaluationReport", out: Path, as_json: bool) -> None:
    """Print the report's tables and where its results are."""
    if as_json:
        print_json({**report.to_dict(), "out": str(out)})
        return
    from rich.console import Console

    console = Console(highlight=False)
    run = report.run_record
    sam = f", SAM {run.sam}" if run.sam else ""
    console.print(f"{run.dataset}: {run.model} on {run.lmm} ({run.dtype}){sam}", markup=False)
    for table in report.tables:
        console.print()
        console.print(table.title, style="bold", markup=False)
        console.print(_build_rich_table(table))
        if table.note is not None:
            console.print(table.note, style="dim", markup=False)
    console.print()
    console.print(report.counts.summary, markup=False)
    console.print(f"Results: {out}", markup=False, soft_wrap=True)


def _build_rich_table(table: "ScoreTable") -> "Table":
    from rich.table import Table

    rich_table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    rich_table.add_column("", no_wrap=True)
    for column in (*table.rows[0].scores, table.count_name):
        rich_table.add_column(column, justify="right")
    for row in table.rows:
        scores = ("–" if score != score else f"{score:.1f}" for score in row.scores.values())
        rich_table.add_row(row.name, *scores, f"{row.count:,}")
    return rich_table
