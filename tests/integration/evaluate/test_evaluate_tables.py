"""Rows and tables of every benchmark, and the page of worst phrases."""

import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from evaluation_world import EvaluationSetup, command, make_setup, mask_of, measure
from pycocotools import mask as coco

from flmm.data.exchanges import ReferringProtocol
from flmm.data.fixtures import (
    write_grounded_conversations,
    write_panoptic_narratives,
    write_reason_seg,
    write_refcoco,
    write_viscot,
)
from flmm.data.readers.grounded_conversation import read_grounded_conversations
from flmm.data.readers.panoptic_narrative import read_panoptic_narratives
from flmm.data.readers.reason_seg import read_reason_seg
from flmm.data.readers.refcoco import read_refcoco
from flmm.data.readers.viscot import read_viscot
from flmm.evaluate.benchmark import Scoring
from flmm.evaluate.results import read_rows
from flmm.evaluate.rows import GeneratedPhraseRow, PhraseRow, SelectorRow
from flmm.evaluate.worst_phrases import write_worst_phrases
from flmm.pictures.reading import read_picture
from flmm.stickers.dataset import EVALUATION_SEED


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> EvaluationSetup:
    return make_setup(tmp_path_factory.mktemp("world"))


def test_rows_agree_with_segment(world: EvaluationSetup, tmp_path: Path) -> None:
    data = write_refcoco(tmp_path / "refcoco")
    samples = read_refcoco(data.folder, data.pictures, "testA", "unc")
    report = measure(
        world.grounder, samples, tmp_path / "out", protocol=ReferringProtocol.ONE_BY_ONE
    )
    rows = read_rows(tmp_path / "out", PhraseRow)
    assert len(rows) == sum(len(sample.texts) for sample in samples) > 10
    size = (96, 96)
    for row, text in zip(rows[:4], samples[0].texts, strict=False):
        (segmented,) = world.grounder.segment(row.picture, [text.text]).phrases
        truth = text.phrases[0].mask(size)
        assert (row.text, row.text_identity, row.kind) == (text.text, text.identity, "expression")
        assert (mask_of(row, row.true_mask) == truth).all()
        predicted = mask_of(row, row.predicted_mask)
        assert (predicted != segmented.mask).mean() < 0.01
        assert row.refined_intersection == (predicted & truth).sum()
        assert row.refined_union == (predicted | truth).sum()
        assert row.score == pytest.approx(segmented.score, abs=0.01)
        assert row.predicted_pixels == predicted.sum()
    (table,) = report.tables
    assert "LISA" in table.title
    ious = [row.refined_intersection / row.refined_union for row in rows]
    scores = {row.name: row.scores for row in table.rows}
    assert scores["refined"]["mIoU"] == pytest.approx(100 * sum(ious) / len(ious))
    assert scores["refined"]["P@0.6"] == pytest.approx(
        100 * sum(iou > 0.6 for iou in ious) / len(ious)
    )
    intersections = [(row.decoder_intersection or 0) for row in rows]
    assert scores["mask decoder"]["cIoU"] == pytest.approx(
        100 * sum(intersections) / sum(row.decoder_union or 0 for row in rows)
    )


def test_both_protocols_are_labelled_and_differ(world: EvaluationSetup, tmp_path: Path) -> None:
    data = write_refcoco(tmp_path / "refcoco")
    samples = read_refcoco(data.folder, data.pictures, "testA", "unc")
    reports = [
        measure(world.grounder, samples, tmp_path / protocol, protocol=protocol)
        for protocol in ReferringProtocol
    ]
    titles = [report.tables[0].title for report in reports]
    assert "in one text" in titles[0]
    assert "one expression at a time" in titles[1]
    rows = [read_rows(tmp_path / protocol, PhraseRow) for protocol in ReferringProtocol]
    assert [row.text for row in rows[0]] == [row.text for row in rows[1]]
    assert [row.protocol for row in rows[1]] == ["one-by-one"] * len(rows[1])
    differs = [first.score != second.score for first, second in zip(*rows, strict=True)]
    assert any(differs)


def test_narratives_are_split_by_kind_and_number(world: EvaluationSetup, tmp_path: Path) -> None:
    data = write_panoptic_narratives(tmp_path / "png", first_scene=3)
    samples = read_panoptic_narratives(data.folder, data.pictures, "val")
    report = measure(world.grounder, samples, tmp_path / "out")
    rows = read_rows(tmp_path / "out", PhraseRow)
    narrative, selector = report.tables
    scores = narrative.rows[1].scores
    for name, members in {
        "all": rows,
        "things": [row for row in rows if row.is_thing is True],
        "stuff": [row for row in rows if row.is_thing is False],
        "plural": [row for row in rows if row.plural],
        "singular": [row for row in rows if not row.plural],
    }.items():
        ious = [row.refined_intersection / row.refined_union for row in members]
        assert members
        assert scores[name] == pytest.approx(100 * sum(ious) / len(ious))
    captions = read_rows(tmp_path / "out", SelectorRow)
    assert selector.rows[0].count == len(captions) == 4
    hits, chosen, wanted = (
        sum(getattr(row, name) for row in captions) for name in ("hits", "chosen", "wanted")
    )
    assert wanted == len(rows)
    assert selector.rows[0].scores["F1"] == pytest.approx(200 * hits / (chosen + wanted))


def test_reasoning_scores_leave_out_ignored_pixels(world: EvaluationSetup, tmp_path: Path) -> None:
    samples = read_reason_seg(write_reason_seg(tmp_path / "reason").folder)
    report = measure(world.grounder, samples, tmp_path / "out", scoring=Scoring.REASON_SEG)
    rows = read_rows(tmp_path / "out", PhraseRow)
    texts = {text.identity: text for sample in samples for text in sample.texts}
    assert any(
        texts[row.text_identity].phrases[0].ignored_mask((row.height, row.width)).any()
        for row in rows
    )
    ious = []
    for row in rows:
        ignored = texts[row.text_identity].phrases[0].ignored_mask((row.height, row.width))
        predicted, truth = mask_of(row, row.predicted_mask), mask_of(row, row.true_mask)
        assert row.refined_union == ((predicted | truth) & ~ignored).sum()
        assert row.refined_intersection == (predicted & truth & ~ignored).sum()
        ious.append(row.refined_intersection / row.refined_union)
    (table,) = report.tables
    scores = {row.name: row.scores for row in table.rows}
    assert scores["refined, all"]["gIoU"] == pytest.approx(100 * sum(ious) / len(ious))
    assert {row.name for row in table.rows} >= {"refined, long (questions)"}


def test_questions_of_visual_chain_of_thought(world: EvaluationSetup, tmp_path: Path) -> None:
    data = write_viscot(tmp_path / "viscot")
    samples = read_viscot(next(data.folder.rglob("*.json")), data.pictures)
    report = measure(world.grounder, samples, tmp_path / "out")
    rows = read_rows(tmp_path / "out", PhraseRow)
    (table,) = report.tables
    assert {row.kind for row in rows} == {"instruction"}
    hits = sum(row.box_iou > 0.5 for row in rows)
    assert table.rows[1].scores["box@0.5"] == pytest.approx(100 * hits / len(rows))
    assert np.isnan(table.rows[0].scores["box@0.5"])


def test_conversation_rows_are_generated_captions(world: EvaluationSetup, tmp_path: Path) -> None:
    data = write_grounded_conversations(tmp_path / "gcg", 1)
    samples = read_grounded_conversations(next(data.folder.rglob("*.json")), data.pictures)
    report = measure(world.grounder, samples, tmp_path / "out", scoring=Scoring.CONVERSATION)
    generated = read_rows(tmp_path / "out", GeneratedPhraseRow)
    rows = read_rows(tmp_path / "out", PhraseRow)
    answer = world.grounder.chat(samples[0].picture, "What is in the picture?")
    caption_rows = [row for row in generated if row.sample == 0 and row.text_identity == "0"]
    assert [row.text for row in caption_rows] == [phrase.text for phrase in answer.phrases] != []
    for row, phrase in zip(caption_rows, answer.phrases, strict=True):
        assert row.sentence[row.start : row.end] == row.text
        decoded = coco.decode({"size": [row.height, row.width], "counts": row.mask})
        assert (decoded == phrase.mask).all()
    assert len(rows) == sum(len(text.phrases) for sample in samples for text in sample.texts)
    (table,) = report.tables
    assert set(table.rows[0].scores) == {"mask recall (by word overlap)", "AP50", "mIoU"}
    assert table.note is not None
    assert table.rows[0].scores["mIoU"] > 0
    assert {row.protocol for row in rows} == {"own words"}


class Page(HTMLParser):
    """The tags, marked texts and addresses of an HTML page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.marked: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] == ["mark"]:
            self.marked.append(data)
            self.tags.append("")


def test_the_page_of_worst_phrases_is_one_file(world: EvaluationSetup, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(world.out, out)
    table = pq.read_table(out / "results.parquet")
    rows = table.to_pylist()
    sentence = "<script>x</script> & more"
    rows[3].update(sentence=sentence, start=0, end=17, refined_intersection=0, true_pixels=10**6)
    pq.write_table(table.from_pylist(rows, schema=table.schema), out / "results.parquet")
    page = Page()
    page.feed(write_worst_phrases(out, 12).read_text(encoding="utf-8"))
    assert page.tags.count("article") == len(page.marked) == 12
    assert "script" not in page.tags
    assert page.marked[0] == sentence[:17]
    assert len(page.addresses) == 24
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.addresses)


def test_the_embedded_model_finds_most_phrases(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = command(
        ["evaluate", "stickers", "--folder", str(tmp_path / "scenes"), "--scenes", "3",
         "--first-scene", str(EVALUATION_SEED), "--protocol", "one-by-one", "--device", "cpu",
         "--out", str(tmp_path / "out"), "--json"],
        capsys,
    )  # fmt: skip
    tables = content["tables"]
    assert isinstance(tables, list)
    referring, captions, selector = (table["rows"][-1] for table in tables)
    print(referring, captions, selector)
    assert referring["cIoU"] > 60
    assert captions["all"] > 70
    assert selector["F1"] > 90
    row = read_rows(tmp_path / "out", PhraseRow)[0]
    assert read_picture(row.picture).size == (row.width, row.height)
    assert torch.tensor(row.predicted_box).shape == (4,)
