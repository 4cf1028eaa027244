"""`flmm evaluate` as researchers run it: on every benchmark, killed, on two processes."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from accelerate import PartialState
from pycocotools import mask as coco
from tiny_grounding import save_head, save_lmm
from torch import nn

from flmm.cli.main import run as run_command
from flmm.data.exchanges import Protocol
from flmm.data.fixtures import (
    write_grounded_conversations,
    write_panoptic_narratives,
    write_plain,
    write_reason_seg,
    write_refcoco,
    write_viscot,
)
from flmm.data.grounded_conversation import read_grounded_conversations
from flmm.data.panoptic_narrative import read_panoptic_narratives
from flmm.data.plain import read_plain
from flmm.data.reason_seg import read_reason_seg
from flmm.data.refcoco import read_refcoco
from flmm.data.sample import Sample
from flmm.data.viscot import read_viscot
from flmm.errors import InputError
from flmm.evaluate.benchmark import Benchmark, Scoring
from flmm.evaluate.contact_sheet import write_contact_sheet
from flmm.evaluate.results import part_file, read_rows
from flmm.evaluate.rows import CaptionRow, PhraseRow, SaidRow, SampleRow
from flmm.evaluate.run import evaluate
from flmm.evaluate.scores import Report, report_of
from flmm.grounder import Grounder
from flmm.pictures import read_picture
from flmm.stickers.world import EVALUATION_SEED

# More than one part of samples, the last one not full.
PICTURES = 11


@dataclass(frozen=True)
class World:
    """A head on disk, a benchmark on disk, and what an undisturbed run made of it."""

    head: Path
    texts: Path
    out: Path
    grounder: Grounder

    @property
    def samples(self) -> list[Sample]:
        return read_plain(self.texts)

    def arguments(self, out: Path) -> list[str]:
        """Of the command, to measure the same."""
        return [
            "evaluate", "plain", "--name", "texts", "--file", str(self.texts), "--model",
            str(self.head), "--device", "cpu", "--out", str(out), "--json",
        ]  # fmt: skip


def measure(
    grounder: Grounder,
    samples: list[Sample],
    out: Path,
    *,
    protocol: Protocol = Protocol.TOGETHER,
    scoring: Scoring = Scoring.BY_KIND,
    tell: Callable[[str], None] = pytest.fail,
    name: str = "texts",
) -> Report:
    benchmark = Benchmark(name, {}, samples, scoring)
    evaluate(grounder, benchmark, protocol, out, PartialState(cpu=True), tell)
    return report_of(out)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    lmm = save_lmm(folder / "lmm")
    head = save_head(folder / "head", str(lmm))
    write_plain(folder / "plain", PICTURES)
    texts = folder / "plain" / "texts.jsonl"
    grounder = Grounder.from_pretrained(str(head), device="cpu")
    out = folder / "out"
    measure(grounder, read_plain(texts), out)
    return World(head, texts, out, grounder)


def same_results(first: Path, second: Path) -> bool:
    names = ("results.parquet", "captions.parquet", "said.parquet", "samples.parquet")
    return all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


def mask_of(row: PhraseRow, counts: str) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    decoded = coco.decode({"size": [row.height, row.width], "counts": counts})
    return np.asarray(decoded, dtype=np.bool_)


def test_a_row_says_what_segment_finds(world: World, tmp_path: Path) -> None:
    data = write_refcoco(tmp_path / "refcoco")
    samples = read_refcoco(data.folder, data.pictures, "testA", "unc")
    report = measure(world.grounder, samples, tmp_path / "out", protocol=Protocol.ONE_BY_ONE)
    rows = read_rows(tmp_path / "out", PhraseRow)
    assert len(rows) == sum(len(sample.texts) for sample in samples) > 10
    size = (96, 96)
    for row, text in zip(rows[:4], samples[0].texts, strict=False):
        (found,) = world.grounder.segment(row.picture, [text.text]).phrases
        truth = text.phrases[0].mask(size)
        assert (row.text, row.text_identity, row.kind) == (text.text, text.identity, "expression")
        assert (mask_of(row, row.true_mask) == truth).all()
        predicted = mask_of(row, row.predicted_mask)
        assert (predicted != found.mask).mean() < 0.01
        assert row.refined_intersection == (predicted & truth).sum()
        assert row.refined_union == (predicted | truth).sum()
        assert row.score == pytest.approx(found.score, abs=0.01)
        assert row.predicted_pixels == predicted.sum()
    (table,) = report.tables
    assert "LISA" in table.title
    ious = [row.refined_intersection / row.refined_union for row in rows]
    scores = {row.name: row.scores for row in table.rows}
    assert scores["refined"]["mIoU"] == pytest.approx(100 * sum(ious) / len(ious))
    assert scores["refined"]["P@0.6"] == pytest.approx(
        100 * sum(iou > 0.6 for iou in ious) / len(ious)
    )
    decoder = [(row.decoder_intersection or 0) for row in rows]
    assert scores["mask decoder"]["cIoU"] == pytest.approx(
        100 * sum(decoder) / sum(row.decoder_union or 0 for row in rows)
    )


def test_both_protocols_are_labelled_and_differ(world: World, tmp_path: Path) -> None:
    data = write_refcoco(tmp_path / "refcoco")
    samples = read_refcoco(data.folder, data.pictures, "testA", "unc")
    reports = [
        measure(world.grounder, samples, tmp_path / protocol, protocol=protocol)
        for protocol in Protocol
    ]
    titles = [report.tables[0].title for report in reports]
    assert "in one text" in titles[0]
    assert "one expression at a time" in titles[1]
    rows = [read_rows(tmp_path / protocol, PhraseRow) for protocol in Protocol]
    assert [row.text for row in rows[0]] == [row.text for row in rows[1]]
    assert [row.protocol for row in rows[1]] == ["one-by-one"] * len(rows[1])
    changed = [one.score != other.score for one, other in zip(*rows, strict=True)]
    assert any(changed)


def test_narratives_are_split_by_kind_and_number(world: World, tmp_path: Path) -> None:
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
    captions = read_rows(tmp_path / "out", CaptionRow)
    assert selector.rows[0].count == len(captions) == 4
    hits, chosen, wanted = (
        sum(getattr(row, name) for row in captions) for name in ("hits", "chosen", "wanted")
    )
    assert wanted == len(rows)
    assert selector.rows[0].scores["F1"] == pytest.approx(200 * hits / (chosen + wanted))


def test_reasoning_leaves_out_what_is_ignored(world: World, tmp_path: Path) -> None:
    samples = read_reason_seg(write_reason_seg(tmp_path / "reason").folder)
    report = measure(
        world.grounder, samples, tmp_path / "out", scoring=Scoring.REASON_SEG
    )  # fmt: skip
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


def test_questions_of_visual_chain_of_thought(world: World, tmp_path: Path) -> None:
    data = write_viscot(tmp_path / "viscot")
    samples = read_viscot(next(data.folder.rglob("*.json")), data.pictures)
    report = measure(world.grounder, samples, tmp_path / "out")
    rows = read_rows(tmp_path / "out", PhraseRow)
    (table,) = report.tables
    assert {row.kind for row in rows} == {"instruction"}
    hits = sum(row.box_iou > 0.5 for row in rows)
    assert table.rows[1].scores["box@0.5"] == pytest.approx(100 * hits / len(rows))
    assert np.isnan(table.rows[0].scores["box@0.5"])


def test_conversations_are_in_the_lmms_own_words(world: World, tmp_path: Path) -> None:
    data = write_grounded_conversations(tmp_path / "gcg", 1)
    samples = read_grounded_conversations(next(data.folder.rglob("*.json")), data.pictures)
    report = measure(
        world.grounder, samples, tmp_path / "out", scoring=Scoring.CONVERSATION
    )  # fmt: skip
    said = read_rows(tmp_path / "out", SaidRow)
    rows = read_rows(tmp_path / "out", PhraseRow)
    answer = world.grounder.chat(samples[0].picture, "What is in the picture?")
    mine = [row for row in said if row.sample == 0 and row.text_identity == "0"]
    assert [row.text for row in mine] == [phrase.text for phrase in answer.phrases] != []
    for row, phrase in zip(mine, answer.phrases, strict=True):
        assert row.sentence[row.start : row.end] == row.text
        decoded = coco.decode({"size": [row.height, row.width], "counts": row.mask})
        assert (decoded == phrase.mask).all()
    assert len(rows) == sum(len(text.phrases) for one in samples for text in one.texts)
    (table,) = report.tables
    assert set(table.rows[0].scores) == {"mask recall (by word overlap)", "AP50", "mIoU"}
    assert table.note is not None
    assert table.rows[0].scores["mIoU"] > 0
    assert {row.protocol for row in rows} == {"own words"}


def test_the_command_prints_the_table_and_cuts_it_again(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    first = command(world.arguments(out), capsys)
    again = command(["evaluate", "--table", str(out), "--json"], capsys)
    assert first == again
    assert first["tables"] == report_of(world.out).to_dict()["tables"]
    assert same_results(out, world.out)
    with pytest.raises(SystemExit):
        run_command(["evaluate", "--table", str(out)])
    shown = capsys.readouterr()
    assert f"{PICTURES} pictures measured; skipped 0 pictures" in shown.out
    assert "things" in shown.out
    assert (out / "worst.html").is_file()


def test_a_yaml_file_names_the_benchmark(
    world: World,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    file = world.texts.parent / "bench.yaml"
    file.write_text("kind: plain\nname: my texts\nfile: texts.jsonl\nlimit: 2\n")
    content = command(
        ["evaluate", str(file), "--model", str(world.head), "--device", "cpu", "--json"], capsys
    )
    assert (content["dataset"], content["pictures"]) == ("my texts", 2)
    (made,) = (tmp_path / "flmm-evaluation").iterdir()
    assert content["out"] == f"flmm-evaluation/{made.name}"
    assert made.name.startswith("my-texts-together-")


def command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    with pytest.raises(SystemExit) as ended:
        run_command(arguments)
    shown = capsys.readouterr()
    assert not ended.value.code, shown.err
    assert shown.err == ""
    content = json.loads(shown.out)
    assert isinstance(content, dict)
    return content


KILLED = """
import os, signal, sys
from flmm.cli.main import run
replace, seen = os.replace, []
def deadly(source, target):
    if "parts" in str(target):
        seen.append(target)
        if len(seen) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = deadly
run(sys.argv[1:])
"""


def test_a_killed_run_goes_on_where_it_stopped(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    arguments = world.arguments(out)
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False)
    assert done.returncode == -signal.SIGKILL
    names = {path.name for path in (out / "parts").iterdir()}
    assert {"000000.parquet", "000001.parquet"} < names
    assert any(name.endswith(".partial") for name in names)
    with pytest.raises(InputError, match="to its end first"):
        report_of(out)
    measured: list[int] = []
    prepare = type(world.grounder.adapter).prepare

    def counted(*arguments: object) -> object:
        measured.append(1)
        return prepare(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(type(world.grounder.adapter), "prepare", counted)
    source = json.loads((out / "run.json").read_text())["source"]
    benchmark = Benchmark("texts", source, world.samples)
    evaluate(
        world.grounder, benchmark, Protocol.TOGETHER, out, PartialState(cpu=True), pytest.fail
    )  # fmt: skip
    assert len(measured) == PICTURES - 8
    assert same_results(out, world.out)
    assert len(list((out / "parts").iterdir())) == 3


def test_two_processes_give_the_table_of_one(world: World, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = []
    for rank in range(2):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2,
                 "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}  # fmt: skip
        running.append(
            subprocess.Popen(
                [sys.executable, "-c", "from flmm.cli.main import run; run()",
                 *world.arguments(out)],
                env={**os.environ, **{name: str(value) for name, value in place.items()}},
                stdout=subprocess.PIPE, text=True,
            )
        )  # fmt: skip
    shown = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert shown[1] == ""
    assert json.loads(shown[0])["tables"] == report_of(world.out).to_dict()["tables"]
    assert same_results(out, world.out)


def test_what_cannot_be_read_is_told_and_counted(world: World, tmp_path: Path) -> None:
    samples = world.samples[:9]
    samples[1] = replace(samples[1], picture=tmp_path / "gone.jpg")
    short = tmp_path / "short.jpg"
    short.write_bytes(samples[2].picture.read_bytes()[:500])
    samples[2] = replace(samples[2], picture=short)
    told: list[str] = []
    report = measure(world.grounder, samples, tmp_path / "out", tell=told.append)
    assert len(told) == 2
    assert "gone.jpg" in told[0]
    assert "7 pictures measured; skipped 2 pictures" in report.counts.summary
    skipped = [row for row in read_rows(tmp_path / "out", SampleRow) if not row.measured]
    assert [(row.sample, row.told) for row in skipped] == [(1, (told[0],)), (2, (told[1],))]
    assert {row.sample for row in read_rows(tmp_path / "out", PhraseRow)} == {0, *range(3, 9)}
    whole = tmp_path / "nothing"
    with pytest.raises(InputError, match="nothing was measured"):
        measure(world.grounder, samples[1:3], whole, tell=told.append)


def test_a_damaged_part_is_measured_anew(world: World, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(world.out, out)
    content = part_file(out, 1).read_bytes()
    part_file(out, 1).write_bytes(content[: len(content) // 2])
    flipped = bytearray(part_file(out, 0).read_bytes())
    flipped[len(flipped) // 4] ^= 255
    part_file(out, 0).write_bytes(flipped)
    told: list[str] = []
    measure(world.grounder, world.samples, out, tell=told.append)
    assert [str(part_file(out, number)) in line for number, line in enumerate(told)] == [True] * 2
    assert same_results(out, world.out)


def test_another_run_is_refused(world: World, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(world.out, out)
    refusal = "its {} is .*; choose another --out"
    with pytest.raises(InputError, match=refusal.format("protocol")):
        measure(world.grounder, world.samples, out, protocol=Protocol.ONE_BY_ONE)
    with pytest.raises(InputError, match=refusal.format("samples")):
        measure(world.grounder, world.samples[:3], out)
    with pytest.raises(InputError, match=refusal.format("dataset")):
        measure(world.grounder, world.samples, out, name="others")
    other = Grounder.from_pretrained(str(world.head), device="cpu")
    nn.init.normal_(other.head.text_projection.bias)
    with pytest.raises(InputError, match="head_fingerprint"):
        measure(other, world.samples, out)
    assert same_results(out, world.out)


def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "flmm.cli.options.find_spec", lambda name: None if name == "pyarrow" else object()
    )
    with pytest.raises(SystemExit) as ended:
        run_command(["evaluate", "plain", "--file", "x.jsonl"])
    assert ended.value.code == 2
    assert "pyarrow" in (line := capsys.readouterr().err)
    assert "pip install 'flmm[evaluate]'" in line


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "no benchmark is given"),
        (["paintings"], "'refcoco', 'panoptic_narratives'"),
        (["refcoco", "--folder", "x"], "0.refcoco.pictures: Field required"),
        (["reason_seg", "--folder", "nowhere"], "there is no .json in 'nowhere'"),
        (["stickers", "--folder", "x", "--scenes", "0", "--first-scene", "1"], "stickers.scenes"),
        (["none.yaml"], "'none.yaml' cannot be read as YAML"),
        (["none.yaml", "--limit", "3"], "write the other options into it"),
        (["plain", "--table", "x"], "give nothing else but --json"),
        (["--table", "."], "give the --out of a run"),
        (["plain", "--protocol", "alone"], "'together', 'one-by-one'"),
    ],
)
def test_mistakes(
    arguments: list[str], part: str, capsys: pytest.CaptureFixture[str],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        run_command(["evaluate", *arguments])
    shown = capsys.readouterr()
    assert (ended.value.code, shown.out) == (2, "")
    assert shown.err.startswith("flmm: ")
    assert shown.err.count("\n") == 1
    assert part in shown.err
    assert not any(tmp_path.iterdir())


class Page(HTMLParser):
    """What a page shows and what it would fetch."""

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


def test_the_contact_sheet_shows_the_worst_phrases_in_one_file(
    world: World, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(world.out, out)
    table = pq.read_table(out / "results.parquet")
    rows = table.to_pylist()
    said = "<script>x</script> & more"
    rows[3].update(sentence=said, start=0, end=17, refined_intersection=0, true_pixels=10**6)
    pq.write_table(table.from_pylist(rows, schema=table.schema), out / "results.parquet")
    page = Page()
    page.feed(write_contact_sheet(out, 12).read_text(encoding="utf-8"))
    assert page.tags.count("article") == len(page.marked) == 12
    assert "script" not in page.tags
    assert page.marked[0] == said[:17]
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
