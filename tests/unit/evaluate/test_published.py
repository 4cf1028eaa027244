"""Published figures stand only beside runs of the same benchmark, part, metric and protocol."""

import re
from dataclasses import replace

import pytest

from flmm.data.exchanges import ReferringProtocol
from flmm.evaluate.benchmark import RunRecord, Scoring
from flmm.evaluate.counts import EvaluationCounts
from flmm.evaluate.published import (
    build_comparison_tables,
    find_published_figures,
    identify_benchmark,
    read_published_figures,
)
from flmm.evaluate.score_tables import EvaluationReport, ScoreRow, ScoreTable

REFCOCO = {"kind": "refcoco", "folder": "data/refcoco", "part": "val", "split_by": "unc"}
TOGETHER, ONE_BY_ONE = ReferringProtocol


def make_report(
    source: dict[str, object],
    rows: list[ScoreRow],
    protocol: ReferringProtocol = ONE_BY_ONE,
    scoring: Scoring = Scoring.BY_KIND,
) -> EvaluationReport:
    run = RunRecord(
        "data", source, 5, "", scoring.value, protocol.value, "head", "", "lmm", "", "float32"
    )
    table = ScoreTable("title", "phrases", tuple(rows))
    return EvaluationReport(run, (table,), EvaluationCounts(5, 0, 0, 0))


def referring_report(
    protocol: ReferringProtocol = ONE_BY_ONE, **changes: object
) -> EvaluationReport:
    rows = [
        ScoreRow("mask decoder", 9, {"cIoU": 70.0, "mIoU": 71.0, "box@0.5": float("nan")}),
        ScoreRow("refined", 9, {"cIoU": 79.0, "mIoU": 76.0, "box@0.5": 80.0}),
    ]
    return make_report({**REFCOCO, **changes}, rows, protocol)


@pytest.mark.parametrize(
    ("source", "benchmark"),
    [
        (REFCOCO, "RefCOCO val"),
        (REFCOCO | {"folder": "/data/refcoco+/", "part": "testB"}, "RefCOCO+ testB"),
        (REFCOCO | {"folder": "refcocog", "part": "test", "split_by": "umd"}, "RefCOCOg test"),
        (REFCOCO | {"folder": "refcocog", "part": "val", "split_by": "google"}, None),
        (REFCOCO | {"folder": "mine"}, None),
        ({"kind": "panoptic_narratives", "folder": "png", "part": "val"}, "PNG val"),
        ({"kind": "reason_seg", "folder": "ReasonSeg/test"}, "ReasonSeg test"),
        ({"kind": "reason_seg", "folder": "ReasonSeg/train"}, None),
        ({"kind": "grounded_conversation", "file": "OpenPsgGCG_val.json"}, None),
        ({"kind": "grounded_conversation", "file": "a/val_gcg_coco_caption_gt.json"}, "GCG val"),
        ({"kind": "grounded_conversation", "file": "a/val_gcg_coco_mask_gt.json"}, "GCG val"),
        ({"kind": "plain", "file": "refcoco/val.jsonl"}, None),
    ],
)
def test_benchmark_is_known_by_its_own_names(
    source: dict[str, object], benchmark: str | None
) -> None:
    assert identify_benchmark(source) == benchmark


@pytest.mark.parametrize(
    ("system", "referring", "narratives"),
    [
        ("F-LMM DeepSeek-VL-1.3B", (75.0, 62.8, 68.2), 64.9),
        ("F-LMM LLaVA-1.5-7B", (75.2, 63.7, 67.1), 64.8),
        ("F-LMM DeepSeek-VL-7B", (76.1, 66.4, 70.1), 65.7),
        ("F-LMM LLaVA-1.6-Vicuna-7B", (75.8, 65.8, 70.1), 66.3),
        ("F-LMM LLaVA-1.6-Mistral-7B", (75.7, 66.5, 70.1), 66.5),
        ("LISA-7B (fine-tuned)", (74.9, 65.1, 67.9), None),
        ("GLaMM-7B", (79.5, 72.6, 74.2), None),
    ],
)
def test_figures_of_the_paper(
    system: str, referring: tuple[float, ...], narratives: float | None
) -> None:
    figures = {
        (figure.benchmark, figure.metric): figure.figure
        for figure in read_published_figures()
        if figure.system == system
    }
    for name, figure in zip(("RefCOCO", "RefCOCO+", "RefCOCOg"), referring, strict=True):
        assert figures[f"{name} val", "cIoU"] == figure
    assert figures.get(("PNG val", "all")) == narratives


def test_every_figure_has_one_source_and_a_known_protocol() -> None:
    figures = read_published_figures()
    keys = [(f.benchmark, f.part, f.metric, f.protocol, f.system) for f in figures]
    assert len(set(keys)) == len(keys)
    known = {*(protocol.value for protocol in ReferringProtocol), "captions", "questions"}
    assert {figure.protocol for figure in figures} == known | {"own words"}
    source = re.compile(r"arXiv \d{4}\.\d{5}|github\.com/|NeurIPS \d{4}")
    assert all(source.search(figure.source) for figure in figures)


def test_rows_of_the_run_stand_among_published_ones() -> None:
    report = referring_report()
    published = find_published_figures(report)
    assert published.benchmark == "RefCOCO val"
    assert {figure.protocol for figure in published.figures} == {"one-by-one"}
    assert {figure.metric for figure in published.figures} == {"cIoU", "box@0.5"}
    (table,) = build_comparison_tables(report, published)
    assert table.metrics == ("cIoU", "box@0.5")
    names = [row.name for row in table.rows]
    assert names.index("GLaMM-7B") < names.index("refined") < names.index("LISA-7B")
    refined = table.rows[names.index("refined")]
    assert (refined.source, refined.scores) == (None, (79.0, 80.0))
    lisa = table.rows[names.index("LISA-7B")]
    assert (lisa.source, lisa.scores[0]) == ("LISA, arXiv 2308.00692, Table 2", 74.1)
    assert names.index("LISA-7B") < names.index("mask decoder")


def test_other_protocols_are_left_out_and_named() -> None:
    published = find_published_figures(referring_report(TOGETHER))
    assert {figure.system.split()[0] for figure in published.figures} == {"F-LMM"}
    assert published.note is not None
    assert "--protocol one-by-one" in published.note
    assert not find_published_figures(referring_report(TOGETHER, part="testA")).figures


def test_part_of_a_benchmark_is_compared_with_nothing() -> None:
    published = find_published_figures(referring_report(limit=100))
    assert published.figures == ()
    assert published.note is not None
    assert "the first 100 pictures alone are no comparison" in published.note


def test_unknown_data_says_what_is_known() -> None:
    published = find_published_figures(referring_report(folder="mine"))
    assert (published.benchmark, published.figures) == (None, ())
    assert published.note is not None
    assert "ReasonSeg" in published.note


def test_skipped_pictures_are_noted() -> None:
    report = replace(referring_report(), counts=EvaluationCounts(4, 1, 2, 0))
    published = find_published_figures(report)
    assert published.figures
    assert published.note is not None
    assert "left out 3 pictures and texts" in published.note


def test_generated_captions_are_compared_by_the_published_recall_alone() -> None:
    source: dict[str, object] = {
        "kind": "grounded_conversation", "file": "data/val_gcg_coco_caption_gt.json"
    }  # fmt: skip
    scores = {"mask recall (by word overlap)": 50.0, "AP50": 20.0, "mIoU": 60.0}
    report = make_report(source, [ScoreRow("refined", 5, scores)], scoring=Scoring.CONVERSATION)
    published = find_published_figures(report)
    assert {figure.metric for figure in published.figures} == {"mIoU"}
    scores["mask recall (by bert-base-uncased)"] = 40.0
    glamm = {
        figure.metric: figure.figure
        for figure in find_published_figures(report).figures
        if figure.system == "GLaMM"
    }
    assert glamm == {"mIoU": 66.3, "mask recall (by bert-base-uncased)": 41.8}


def test_reason_seg_has_a_table_for_each_part() -> None:
    scores = {"gIoU": 50.0, "cIoU": 50.0, "box@0.5": 50.0}
    parts = ("all", "long (questions)", "short (expressions)")
    rows = [ScoreRow(f"refined, {part}", 3, scores, part) for part in parts]
    source: dict[str, object] = {"kind": "reason_seg", "folder": "ReasonSeg/test"}
    report = make_report(source, rows, scoring=Scoring.REASON_SEG)
    tables = build_comparison_tables(report, find_published_figures(report))
    best = {table.title: table.rows[0] for table in tables}
    assert set(best) == {f"ReasonSeg test: {part}" for part in parts}
    assert best["ReasonSeg test: long (questions)"].scores == (63.2, 65.3)
    assert best["ReasonSeg test: all"].scores == (61.3, 62.2)
    # Expressions were asked in another way, questions were not.
    report = make_report(source, rows, TOGETHER, Scoring.REASON_SEG)
    (table,) = build_comparison_tables(report, find_published_figures(report))
    assert table.title == "ReasonSeg test: long (questions)"
