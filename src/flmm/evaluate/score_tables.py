"""Score tables as in papers, computed from the stored rows without running a model."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath

import torch

from flmm.data.exchanges import ReferringProtocol
from flmm.errors import InputError
from flmm.evaluate.benchmark import RunRecord, Scoring, read_run_record
from flmm.evaluate.conversation_scores import ConversationRows
from flmm.evaluate.counts import EvaluationCounts, count_samples
from flmm.evaluate.metrics import (
    Overlap,
    SpanCounts,
    box_accuracy,
    cumulative_iou,
    narrative_scores,
    reasoning_scores,
    referring_scores,
)
from flmm.evaluate.results import read_rows
from flmm.evaluate.rows import (
    GeneratedPhraseRow,
    PhraseRow,
    SampleRow,
    SelectorRow,
    SimilarityRow,
)

PROTOCOL_LABELS = {
    ReferringProtocol.TOGETHER.value: (
        "all expressions of a picture in one text (together; F-LMM's)"
    ),
    ReferringProtocol.ONE_BY_ONE.value: "one expression at a time (one-by-one; LISA's)",
}
_BOX_COLUMN = "box@0.5"
_COLUMN_NAMES = {
    "cumulative_iou": "cIoU", "mean_iou": "mIoU", "generalised_iou": "gIoU",
    "precision_at_0_5": "P@0.5", "precision_at_0_6": "P@0.6", "precision_at_0_7": "P@0.7",
    "precision_at_0_8": "P@0.8", "precision_at_0_9": "P@0.9", "singulars": "singular",
    "plurals": "plural", "accuracy_at_0_5": "IoU>0.5", "average_precision_at_0_5": "AP50",
    "mask_recall": "mask recall (by word overlap)",
}  # fmt: skip
_WORD_OVERLAP_NOTE = (
    "Mask recall by word overlap compares phrases by shared words (Dice of at least 0.5, articles"
    " aside) where GLaMM takes BERT similarity: near its figure, not the same one."
)
_TEXT_ENCODER_NOTE = (
    "Mask recall by {encoder} is computed as by GLaMM, whose own figures are by bert-base-uncased."
)


@dataclass(frozen=True)
class ScoreRow:
    """A line of a table."""

    name: str
    count: int
    """How many phrases or captions were measured."""
    scores: dict[str, float]
    """In percent, by column; NaN where nothing was measured."""
    part: str = ""
    """Of a table of several parts: which phrases were measured."""


@dataclass(frozen=True)
class ScoreTable:
    """A table of scores."""

    title: str
    count_name: str
    """What ``ScoreRow.count`` counts."""
    rows: tuple[ScoreRow, ...]
    note: str | None = None


@dataclass(frozen=True)
class EvaluationReport:
    """A run's tables."""

    run_record: RunRecord
    tables: tuple[ScoreTable, ...]
    counts: EvaluationCounts

    def to_dict(self) -> dict[str, object]:
        """Return the report as JSON content; scores are None where nothing was measured."""
        return {
            "dataset": self.run_record.dataset,
            "model": self.run_record.model,
            "lmm": self.run_record.lmm,
            "protocol": self.run_record.protocol,
            "tables": [
                {
                    "title": table.title,
                    "note": table.note,
                    "rows": [
                        {
                            "name": row.name,
                            table.count_name: row.count,
                            **{
                                name: None if math.isnan(score) else score
                                for name, score in row.scores.items()
                            },
                        }
                        for row in table.rows
                    ],
                }
                for table in self.tables
            ],
            **asdict(self.counts),
        }


def build_report(out: Path) -> EvaluationReport:
    """Return the tables of a finished run.

    Raises:
        InputError: the run is not finished, a file is damaged, or nothing could be measured.
    """
    run = read_run_record(out)
    counts = count_samples(read_rows(out, SampleRow))
    phrases = read_rows(out, PhraseRow)
    if not phrases:
        raise InputError(f"nothing was measured ({counts.summary}); check the benchmark's pictures")
    if run.scoring == Scoring.CONVERSATION:
        rows = ConversationRows(phrases, read_rows(out, GeneratedPhraseRow))
        similarities = read_rows(out, SimilarityRow) if run.text_encoder else None
        tables = [_conversation_table(rows, run, similarities)]
    else:
        tables = _build_phrase_tables(phrases, run)
        if captions := read_rows(out, SelectorRow):
            tables.append(_selector_table(captions))
    return EvaluationReport(run, tuple(tables), counts)


def _build_phrase_tables(phrases: Sequence[PhraseRow], run: RunRecord) -> list[ScoreTable]:
    label = PROTOCOL_LABELS[run.protocol]
    kinds = {
        kind: [row for row in phrases if row.kind == kind]
        for kind in ("expression", "caption", "instruction")
    }
    if run.scoring == Scoring.REASON_SEG:
        parts = {
            "all": phrases,
            "long (questions)": kinds["instruction"],
            "short (expressions)": kinds["expression"],
        }
        title = f"Reasoning segmentation; short ones: {label}"
        return [_table(title, parts, _reasoning, run.method)]
    tables = []
    if kinds["expression"]:
        title = f"Referring segmentation: {label}"
        tables.append(_table(title, {"": kinds["expression"]}, _referring, run.method))
    if kinds["caption"]:
        title = "Phrases of captions: average recall"
        tables.append(_table(title, {"": kinds["caption"]}, _narrative, run.method))
    if kinds["instruction"]:
        title = "What questions are about"
        tables.append(_table(title, {"": kinds["instruction"]}, _reasoning, run.method))
    return tables


_ScoreFunction = Callable[[Sequence[PhraseRow], Overlap], dict[str, float]]


def _table(
    title: str, parts: dict[str, Sequence[PhraseRow]], score: _ScoreFunction, method: str
) -> ScoreTable:
    """Return two lines for each part with rows: of the decoder's masks and of the refined ones.

    Without a head there is no decoder, and one line.
    """
    rows = []
    for part, members in parts.items():
        if not members:
            continue
        stages = {"mask decoder": _decoder_overlap(members), "refined": _refined_overlap(members)}
        if method != "head":
            stages = {method: stages["refined"]}
        for stage, overlap in stages.items():
            part_scores = score(members, overlap)
            if stage == "mask decoder" and _BOX_COLUMN in part_scores:
                # Rows have boxes of refined masks only.
                part_scores[_BOX_COLUMN] = math.nan
            name = f"{stage}, {part}" if part else stage
            rows.append(ScoreRow(name, len(members), part_scores, part))
    return ScoreTable(title, "phrases", tuple(rows))


def _refined_overlap(rows: Sequence[PhraseRow]) -> Overlap:
    return _overlap((row.refined_intersection for row in rows), (row.refined_union for row in rows))


def _decoder_overlap(rows: Sequence[PhraseRow]) -> Overlap:
    return _overlap(
        (row.decoder_intersection or 0 for row in rows), (row.decoder_union or 0 for row in rows)
    )


def _overlap(intersections: Iterable[int], unions: Iterable[int]) -> Overlap:
    return Overlap(
        torch.tensor(list(intersections), dtype=torch.float64),
        torch.tensor(list(unions), dtype=torch.float64),
    )


def _referring(rows: Sequence[PhraseRow], overlap: Overlap) -> dict[str, float]:
    return {**_name_columns(referring_scores(overlap)), **_boxes(rows)}


def _reasoning(rows: Sequence[PhraseRow], overlap: Overlap) -> dict[str, float]:
    return {**_name_columns(reasoning_scores(overlap)), **_boxes(rows)}


def _narrative(rows: Sequence[PhraseRow], overlap: Overlap) -> dict[str, float]:
    scores = narrative_scores(
        overlap,
        torch.tensor([row.is_thing is True for row in rows]),
        torch.tensor([row.plural for row in rows]),
        torch.tensor([row.is_thing is False for row in rows]),
    )
    percent = {name: 100 * value for name, value in _name_columns(scores).items()}
    return {**percent, "cIoU": 100 * cumulative_iou(overlap)}


def _boxes(rows: Sequence[PhraseRow]) -> dict[str, float]:
    iou = torch.tensor([row.box_iou for row in rows], dtype=torch.float64)
    return {_BOX_COLUMN: 100 * box_accuracy(iou)}


def _name_columns(scores: object) -> dict[str, float]:
    """Return the fields of a dataclass of scores by column name."""
    return {_COLUMN_NAMES.get(name, name): value for name, value in vars(scores).items()}


def _selector_table(captions: Sequence[SelectorRow]) -> ScoreTable:
    counts = sum(
        (SpanCounts(row.hits, row.chosen, row.wanted) for row in captions), SpanCounts(0, 0, 0)
    )
    scores = {
        "F1": 100 * counts.f1,
        "precision": 100 * counts.precision,
        "recall": 100 * counts.recall,
    }
    title = "Keyword selector: phrases with both ends exact"
    return ScoreTable(title, "captions", (ScoreRow("selector", len(captions), scores),))


def _conversation_table(
    rows: ConversationRows, run: RunRecord, similarities: Sequence[SimilarityRow] | None
) -> ScoreTable:
    """``similarities``: None if no text encoder has compared the phrases."""
    scores = _name_columns(rows.scores())
    note = _WORD_OVERLAP_NOTE
    if similarities is not None:
        # A figure of another encoder is no figure of the published metric.
        encoder = PurePath(run.text_encoder).name or run.text_encoder
        scores = {f"mask recall (by {encoder})": rows.mask_recall(similarities), **scores}
        note = f"{_TEXT_ENCODER_NOTE.format(encoder=encoder)} {note}"
    title = "Grounded conversation generation: captions in the LMM's own words"
    name = "refined" if run.method == "head" else run.method
    row = ScoreRow(name, len(rows.caption_pairs), scores)
    return ScoreTable(title, "captions", (row,), note)
