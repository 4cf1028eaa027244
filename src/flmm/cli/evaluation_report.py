"""The tables of ``flmm evaluate`` on the console, or as JSON."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from flmm.cli.console import print_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from flmm.evaluate.published import PublishedFigures
    from flmm.evaluate.score_tables import EvaluationReport, ScoreTable


def print_report(
    report: "EvaluationReport", out: Path, as_json: bool, beside_published: bool = False
) -> None:
    """Print the report's tables, what is published of the benchmark, and where its results are."""
    published = None
    if beside_published:
        from flmm.evaluate.published import find_published_figures

        published = find_published_figures(report)
    if as_json:
        beside = {} if published is None else {"published": published.to_dict()}
        print_json({**report.to_dict(), **beside, "out": str(out)})
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
    if published is not None:
        _print_published(report, published, console)
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
        scores = map(_format_score, row.scores.values())
        rich_table.add_row(row.name, *scores, f"{row.count:,}")
    return rich_table


def _print_published(
    report: "EvaluationReport", published: "PublishedFigures", console: "Console"
) -> None:
    from rich.table import Table

    from flmm.evaluate.published import build_comparison_tables

    for table in build_comparison_tables(report, published):
        rich_table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        rich_table.add_column("")
        for metric in table.metrics:
            rich_table.add_column(metric, justify="right")
        rich_table.add_column("source")
        for row in table.rows:
            scores = map(_format_score, row.scores)
            style = "bold" if row.source is None else None
            rich_table.add_row(row.name, *scores, row.source or "this run", style=style)
        console.print()
        console.print(f"{table.title}, beside published figures", style="bold", markup=False)
        console.print(rich_table)
    if published.note is not None:
        console.print()
        console.print(published.note, style="dim", markup=False)


def _format_score(score: float) -> str:
    return "–" if math.isnan(score) else f"{score:.1f}"
