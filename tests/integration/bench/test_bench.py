"""`flmm bench` on a tiny model: the shape of its output and relations between its values."""

import json
import subprocess
import sys

import pytest
from command import run_in_process


def test_bench_record() -> None:
    command = [sys.executable, "-m", "flmm.cli.main", "bench", "record"]
    options = "--size small --image-tokens 576 --new-tokens 20 --repeats 1 --device cpu --json"
    done = subprocess.run([*command, *options.split()], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    rows = {row["mode"]: row for row in content["chat"]}
    assert list(rows) == ["plain", "recorded", "eager"]
    for mode, row in rows.items():
        assert row["seconds"] > 0
        assert row["image_tokens"] == 576
        assert row["map_bytes"] == 20 * 3 * 4 * 576 * 2
        assert (row["time_ratio"] == 1) == (mode == "plain")
    # Eager attention's matrices have 18 MB, the recorded maps 0.3 MB.
    assert rows["eager"]["extra_bytes"] > rows["recorded"]["extra_bytes"] + 5e6
    assert content["grounding"]["one_phrase"] < content["grounding"]["all_phrases"]
    assert content["loading"]["weights"] > 1e5
    assert content["loading"]["peak"] > content["loading"]["weights"] / 2


def test_bench_chat(capsys: pytest.CaptureFixture[str]) -> None:
    options = "--size small --image-tokens 576 --together 1 --new-tokens 8 --repeats 1 --device cpu"
    ended = run_in_process(["bench", "chat", *options.split(), "--json"], capsys)
    assert ended.code == 0
    content = json.loads(ended.out)
    assert content["engine_unused"] is None
    rows = {row["way"]: row for row in content["chat"]}
    assert list(rows) == ["transformers", "engine", "recorded", "grounded"]
    for way, row in rows.items():
        assert row["answers"] == 1
        assert row["seconds"] > 0
        assert (row["ratio"] == 1) == (way == "transformers")
    assert rows["grounded"]["seconds"] > rows["recorded"]["seconds"]


def test_bench_ground(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "ground", "--size", "small", "--repeats", "1", "--device", "cpu"]
    ended = run_in_process([*arguments, "--json"], capsys)
    assert (ended.code, ended.err) == (0, "")
    cost = json.loads(ended.out)
    assert cost["phrases"] == 8
    assert cost["ratio"] == cost["ground"] / cost["forward"]
    assert cost["masks"] > 0


@pytest.mark.parametrize(
    ("options", "ignored"),
    [
        (["--sam", "embedded:sam"], "--sam"),
        (["--lmm", "embedded:lmm", "--size", "small"], "--size"),
    ],
)
def test_bench_ground_ignores_nothing(
    options: list[str], ignored: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = run_in_process(["bench", "ground", *options], capsys)
    assert (ended.code, ended.out) == (2, "")
    assert f"would ignore {ignored}; leave out" in ended.err
    assert ended.err.count("\n") == 1


def test_bench_train() -> None:
    command = [sys.executable, "-m", "flmm.cli.main", "bench", "train"]
    options = "--size small --pictures 1 --epochs 1 --device cpu --json"
    done = subprocess.run([*command, *options.split()], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ways = {row["way"]: row for row in json.loads(done.stdout)["ways"]}
    assert list(ways) == ["authors", "uncached", "cached"]
    for row in ways.values():
        assert row["ratio"] == row["seconds"] / ways["cached"]["seconds"] > 0
