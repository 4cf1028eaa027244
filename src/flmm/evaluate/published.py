"""Published figures of the benchmark that a run measured, to stand beside its own.

``published_figures.yaml`` has them. A figure is shown only where benchmark, part, split, metric and
protocol are those of the run.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import PurePath
from typing import Annotated, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from flmm.evaluate.benchmark import Scoring
from flmm.evaluate.score_tables import PROTOCOL_LABELS, EvaluationReport

_SPLIT_BY = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd"}
"""The split that published figures are of, by the data set's folder."""
_BENCHMARK_NAMES = {"refcoco": "RefCOCO", "refcoco+": "RefCOCO+", "refcocog": "RefCOCOg"}
_GCG_PARTS = {
    f"{part}_gcg_coco_{content}_gt.json": part
    for part in ("val", "test")
    for content in ("caption", "mask")
}
"""By either file of the ground truth."""
_KNOWN_DATA = (
    "RefCOCO and RefCOCO+ (unc) and RefCOCOg (umd) in folders refcoco, refcoco+ and refcocog; PNG"
    " val; ReasonSeg in folders val and test; GCG in val_gcg_coco_caption_gt.json and"
    " test_gcg_coco_caption_gt.json"
)


@dataclass(frozen=True)
class PublishedFigure:
    """One published score of a system."""

    benchmark: str
    """With its part: "RefCOCO testA"."""
    part: str
    """``ScoreRow.part`` of the rows that it stands beside."""
    metric: str
    """A column of flmm's tables."""
    system: str
    figure: float
    """In percent."""
    protocol: str
    source: str


@dataclass(frozen=True)
class PublishedFigures:
    """What is published about the benchmark of a run."""

    benchmark: str | None
    """With its part; None where the run's data is not known to be a published benchmark."""
    figures: tuple[PublishedFigure, ...]
    """Those that agree with the run."""
    note: str | None
    """Why there is none, or what to bear in mind."""

    def to_dict(self) -> dict[str, object]:
        """Return the figures as JSON content."""
        return asdict(self)


@dataclass(frozen=True)
class ComparisonRow:
    """A line of a comparison: of the run or of a published system."""

    name: str
    source: str | None
    """None for a row of the run."""
    scores: tuple[float, ...]
    """In percent, by metric; NaN where there is none."""


@dataclass(frozen=True)
class ComparisonTable:
    """Rows of a run among published ones, the best first."""

    title: str
    metrics: tuple[str, ...]
    rows: tuple[ComparisonRow, ...]


def find_published_figures(report: EvaluationReport) -> PublishedFigures:
    """Return the published figures of what a run measured, in the file's order.

    There is none for a part of a benchmark (``limit``).
    """
    run = report.run_record
    benchmark = identify_benchmark(run.source)
    if benchmark is None:
        return PublishedFigures(None, (), f"Published figures are known of: {_KNOWN_DATA}.")
    if (limit := run.source.get("limit")) is not None:
        note = (
            f"Published figures are of the whole {benchmark}; the first {limit} pictures alone are"
            " no comparison."
        )
        return PublishedFigures(benchmark, (), note)
    measured = {
        (row.part, metric) for table in report.tables for row in table.rows for metric in row.scores
    }
    candidates = [
        figure
        for figure in read_published_figures()
        if figure.benchmark == benchmark and (figure.part, figure.metric) in measured
    ]
    protocols = {run.protocol, "captions", "questions"}
    if run.scoring == Scoring.CONVERSATION:
        protocols = {"own words"}
    agreeing = tuple(figure for figure in candidates if figure.protocol in protocols)
    notes = []
    if other := [figure for figure in candidates if figure.protocol not in protocols]:
        notes.append(_describe_other_protocol(other, run.protocol))
    if not candidates:
        notes.append(f"No published figure of {benchmark} is known.")
    if counts := report.counts.skipped_pictures + report.counts.skipped_texts:
        notes.append(
            f"This run left out {counts} pictures and texts that published figures may include."
        )
    return PublishedFigures(benchmark, agreeing, " ".join(notes) or None)


def build_comparison_tables(
    report: EvaluationReport, published: PublishedFigures
) -> tuple[ComparisonTable, ...]:
    """Return a table for each part of the run that has published figures."""
    tables = []
    for part in dict.fromkeys(figure.part for figure in published.figures):
        figures = [figure for figure in published.figures if figure.part == part]
        metrics = tuple(dict.fromkeys(figure.metric for figure in figures))
        scores: dict[tuple[str, str | None], dict[str, float]] = {
            (row.name, None): row.scores
            for table in report.tables
            for row in table.rows
            if row.part == part and not row.scores.keys().isdisjoint(metrics)
        }
        for figure in figures:
            by_metric = scores.setdefault((figure.system, figure.source), {})
            by_metric[figure.metric] = figure.figure
        rows = [
            ComparisonRow(
                name, source, tuple(by_metric.get(metric, math.nan) for metric in metrics)
            )
            for (name, source), by_metric in scores.items()
        ]
        rows.sort(
            key=lambda row: [-math.inf if math.isnan(score) else score for score in row.scores]
        )
        title = f"{published.benchmark}: {part}" if part else str(published.benchmark)
        tables.append(ComparisonTable(title, metrics, tuple(reversed(rows))))
    return tuple(tables)


def identify_benchmark(source: Mapping[str, object]) -> str | None:
    """Return the benchmark and part of a data source (``RunRecord.source``), as "RefCOCO val".

    The data sets' own names of folders and files tell them apart.
    """
    folder = PurePath(str(source.get("folder", ""))).name.lower()
    match source.get("kind"):
        case "refcoco":
            if folder in _SPLIT_BY and source.get("split_by") == _SPLIT_BY[folder]:
                return f"{_BENCHMARK_NAMES[folder]} {source.get('part')}"
        case "panoptic_narratives":
            return f"PNG {source.get('part')}"
        case "reason_seg":
            if folder in ("val", "test"):
                return f"ReasonSeg {folder}"
        case "grounded_conversation":
            part = _GCG_PARTS.get(PurePath(str(source.get("file", ""))).name)
            return None if part is None else f"GCG {part}"
    return None


class _Column(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    benchmark: str
    rows: str = ""
    metric: str


class _System(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    system: Annotated[str, Field(min_length=1)]
    source: Annotated[str, Field(min_length=1)]
    figures: list[Annotated[float, Field(gt=0, lt=100)] | None]


class _Block(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    protocol: str
    columns: list[_Column]
    systems: list[_System]

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        for system in self.systems:
            if len(system.figures) != len(self.columns):
                raise ValueError(f"{system.system}: {len(system.figures)} figures")
        return self


@functools.cache
def read_published_figures() -> tuple[PublishedFigure, ...]:
    """Return all published figures that the package has."""
    content = (files("flmm.evaluate") / "published_figures.yaml").read_text(encoding="utf-8")
    return tuple(
        PublishedFigure(
            column.benchmark,
            column.rows,
            column.metric,
            system.system,
            figure,
            block.protocol,
            system.source,
        )
        for block in TypeAdapter(list[_Block]).validate_python(yaml.safe_load(content))
        for system in block.systems
        for column, figure in zip(block.columns, system.figures, strict=True)
        if figure is not None
    )


def _describe_other_protocol(figures: list[PublishedFigure], protocol: str) -> str:
    """Say that figures of another protocol are not shown, and how to compare with them."""
    systems = len({figure.system for figure in figures})
    (other,) = {figure.protocol for figure in figures}
    return (
        f"This run asked for {PROTOCOL_LABELS[protocol]}; {systems} systems with figures of"
        f" {PROTOCOL_LABELS[other]} are left out: --protocol {other} stands beside them."
    )
