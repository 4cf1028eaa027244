"""``flmm evaluate grounded_conversation --text-encoder``: the published mask recall."""

import json
from pathlib import Path
from typing import Any

import pytest
from command import run_in_process
from tiny_text_encoder import save_tiny_bert

from flmm.data.fixtures import write_grounded_conversation_truth, write_plain
from flmm.evaluate.results import read_rows
from flmm.evaluate.rows import GeneratedPhraseRow, PhraseRow, SimilarityRow
from flmm.evaluate.text_encoder import TextEncoder

RUN = [
    "evaluate", "grounded_conversation", "--file", "data/val_gcg_coco_caption_gt.json",
    "--pictures", "data/val_test", "--device", "cpu", "--out", "out", "--json",
]  # fmt: skip
TABLE = ["evaluate", "--table", "out", "--json"]
RECALL = "mask recall (by {})"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data and two encoders."""
    folder = tmp_path_factory.mktemp("workspace")
    write_grounded_conversation_truth(folder / "data", 3)
    save_tiny_bert(folder / "bert")
    save_tiny_bert(folder / "other", seed=1)
    return folder


def report(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    ended = run_in_process(arguments, capsys)
    assert ended.code == 0, ended.err
    content = json.loads(ended.out)
    assert isinstance(content, dict)
    return content


def scores(content: dict[str, Any]) -> dict[str, float]:
    (table,) = content["tables"]
    (row,) = table["rows"]
    assert isinstance(row, dict)
    return row


def test_recall_by_a_text_encoder(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workspace)
    plain = report(RUN, capsys)
    compared = report([*RUN, "--text-encoder", "bert"], capsys)
    by_bert = {name: score for name, score in scores(compared).items() if name not in scores(plain)}
    assert list(by_bert) == [RECALL.format("bert")]
    assert 0 <= by_bert[RECALL.format("bert")] <= 100
    assert "by bert is computed as by GLaMM" in compared["tables"][0]["note"]
    assert {**scores(plain), **by_bert} == scores(compared)
    assert json.loads(Path("out/run.json").read_text())["text_encoder"] == "bert"

    true, said = read_rows(Path("out"), PhraseRow), read_rows(Path("out"), GeneratedPhraseRow)
    assert "a unicorn" in {row.text for row in true}, "a label that the caption does not say"
    similarities = read_rows(Path("out"), SimilarityRow)
    assert len(similarities) == sum(
        (row.sample, row.text_identity) == (phrase.sample, phrase.text_identity)
        for row in true
        for phrase in said
    )
    encoder = TextEncoder.from_pretrained("bert", "cpu")
    first = similarities[0]
    texts = [
        next(row.text for row in said if (row.sample, row.phrase) == (first.sample, first.said)),
        next(row.text for row in true if (row.sample, row.phrase) == (first.sample, first.phrase)),
    ]
    one, other = encoder.embed(texts)
    assert first.similarity == pytest.approx(float(one @ other), abs=1e-6)

    # The tables need neither the run nor the encoder any more.
    for folder in ("bert", "data"):
        (workspace / folder).rename(workspace / f"{folder}-gone")
    assert scores(report(TABLE, capsys)) == scores(compared)
    again = scores(report([*TABLE, "--text-encoder", "other", "--device", "cpu"], capsys))
    assert {**scores(plain), RECALL.format("other"): again[RECALL.format("other")]} == again
    assert json.loads(Path("out/run.json").read_text())["text_encoder"] == "other"
    assert [row.similarity for row in read_rows(Path("out"), SimilarityRow)] != [
        row.similarity for row in similarities
    ]
    for folder in ("bert", "data"):
        (workspace / f"{folder}-gone").rename(workspace / folder)
    # The run itself is the same with any encoder.
    assert scores(report([*RUN, "--text-encoder", "bert"], capsys)) == scores(compared)


def test_wrong_encoders_are_refused_before_the_run(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workspace)
    ended = run_in_process([*RUN[:-3], "--out", "new", "--text-encoder", "data"], capsys)
    assert ended.code == 2
    assert "text encoder 'data' is a folder without config.json" in ended.err
    assert len(ended.err.splitlines()) == 1
    assert not Path("new").exists()
    write_plain(workspace / "plain", 1)
    plain = ["evaluate", "plain", "--file", "plain/texts.jsonl", "--out", "new"]
    ended = run_in_process([*plain, "--text-encoder", "bert"], capsys)
    assert ended.code == 2
    assert "only grounded_conversation has" in ended.err
    assert not Path("new").exists()
