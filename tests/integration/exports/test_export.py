"""``flmm export``, after ``flmm batch`` and with mistakes."""

import json
from pathlib import Path

import numpy as np
import pytest
from command import run_in_process
from exported import READERS, assert_same, write_results
from mask_shapes import build_mask
from PIL import Image
from pycocotools import mask as coco
from tiny_grounding import save_lmm, save_tiny_head

RING = build_mask("ring")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("results", ["results.jsonl", "results"])
def test_results_of_batch_are_exported(
    results: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = save_tiny_head(folder / "head", str(save_lmm(folder / "lmm")))
    (folder / "pictures").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "pictures" / "a.png")
    (folder / "pictures" / "b.png").write_bytes(b"no picture")
    options = ["--model", str(head), "--max-new-tokens", "12", "--out", results]
    ended = run_in_process(["batch", "pictures", "What is it?", *options], capsys)
    assert ended.code == 0, ended.err
    ended = run_in_process(["export", results, "--to", "coco", "--json"], capsys)
    assert (ended.code, ended.err) == (0, "")
    said = json.loads(ended.out)
    assert (said["out"], said["pictures"], said["failed"]) == ("results-coco", 1, 1)
    ended = run_in_process(
        ["chat", "pictures/a.png", "What is it?", *options[:4], "--json"], capsys
    )
    phrases = [phrase for phrase in json.loads(ended.out)["phrases"] if phrase["area"]]
    assert said["masks"] == len(phrases) > 0
    expected = {"a.png": [(phrase["text"], coco.decode(phrase["mask"]) == 1) for phrase in phrases]}
    assert_same(READERS["coco"](folder / "results-coco", expected), expected)


def test_what_is_left_out_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masks = {"a.png": [("it", RING), ("sky", ~RING), ("nothing", RING & ~RING)]}
    write_results(folder / "results.jsonl", masks)
    (folder / "labels.yaml").write_text("it: thing\nnothing: thing\n")
    ended = run_in_process(
        ["export", "results.jsonl", "--to", "masks", "--labels", "labels.yaml"], capsys
    )
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[:2] == [
        "1 pictures, 1 masks: results-masks",
        "left out: 1 with an empty mask, 1 without a label",
    ]
    assert [path.name for path in Path("results-masks/a.png").iterdir()] == ["01-thing.png"]
    ended = run_in_process(
        ["export", "results.jsonl", "--to", "labelme", "--out", "new", "--min-score", "0.8"], capsys
    )
    assert "left out: 3 below --min-score" in ended.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["results.jsonl", "--to", "pascal"], "'pascal'"),
        (["results.jsonl"], "--to"),
        (["missing.jsonl", "--to", "coco"], "'missing.jsonl' cannot be read"),
        (["other.jsonl", "--to", "coco"], "'other.jsonl', line 1, is no result of flmm batch"),
        (["results.jsonl", "--to", "coco", "--out", "full"], "has files already"),
        (["results.jsonl", "--to", "coco", "--out", "other.jsonl"], "is a file; choose a new"),
        (["results.jsonl", "--to", "coco", "--out", "no/where"], "there is no folder"),
        (["results.jsonl", "--to", "coco", "--min-score", "2"], "min_score is 2"),
        (["results.jsonl", "--to", "coco", "--labels", "none.yaml"], "'none.yaml' cannot be read"),
        (["results.jsonl", "--to", "masks", "--image-prefix", "a"], "would ignore --image-prefix"),
    ],
)
def test_mistakes(
    folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_results(folder / "results.jsonl", {"a.png": [("it", RING)]})
    (folder / "other.jsonl").write_text("{}\n")
    (folder / "full").mkdir()
    (folder / "full" / "mine").write_text("")
    before = sorted(folder.rglob("*"))
    ended = run_in_process(["export", *arguments], capsys)
    assert (ended.code, ended.out) == (2, "")
    assert message in ended.err
    assert len(ended.err.splitlines()) == 1
    assert sorted(folder.rglob("*")) == before
