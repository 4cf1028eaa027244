"""``flmm results``: counts, failures and a sheet of some pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
from command import run_in_process
from PIL import Image
from tiny_grounding import save_lmm, save_tiny_head


@pytest.mark.parametrize("out", ["results.jsonl", "results"])
def test_results_are_counted_and_drawn(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    head = str(save_tiny_head(tmp_path / "head", str(save_lmm(tmp_path / "lmm"))))
    Path("pictures").mkdir()
    for seed in range(6):
        pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"pictures/{seed}.png")
    for name in ("x.png", "y.png"):
        Path("pictures", name).write_bytes(b"broken")
    command = ["batch", "pictures", "Why?", "--model", head, "--max-new-tokens", "3", "--out", out]
    assert run_in_process(command, capsys).code == 0
    ended = run_in_process(["results", out, "--failures", "1"], capsys)
    assert ended.code == 0
    lines = ended.out.splitlines()
    assert lines[0].startswith("8 results, 2 of them failures; ")
    assert lines[1].startswith("x.png: ")
    assert lines[2:] == ["and 1 more (--failures NUMBER)"]
    Path("pictures/3.png").unlink()
    command = ["results", out, "--sheet", "sheet.png", "--sample", "6", "--json"]
    ended = run_in_process(command, capsys)
    assert ended.code == 0, ended.err
    overview = json.loads(ended.out)
    assert (overview["results"], overview["failed"]) == (8, 2)
    assert set(overview["failures"]) == {"x.png", "y.png"}
    assert list(overview["not_drawn"]) == ["3.png"]
    assert Image.open("sheet.png").width == 4 * (480 + 16)  # five pictures in two rows


def test_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments in (["nowhere.jsonl"], ["."], ["results.jsonl", "--sheet", "sheet.txt"]):
        ended = run_in_process(["results", *arguments], capsys)
        assert ended.code == 2
        assert ended.err.count("\n") == 1
