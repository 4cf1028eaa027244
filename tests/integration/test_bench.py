"""The benchmark itself, on a model so small that its figures mean nothing."""

import json
import subprocess
import sys


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flmm.cli.main", "bench", "record", "--device", "cpu"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True)


def test_bench_record() -> None:
    small = ("--size", "small", "--image-tokens", "576", "--new-tokens", "20", "--repeats", "1")
    done = bench(*small, "--json")
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    rows = {row["mode"]: row for row in content["chat"]}
    assert list(rows) == ["plain", "recorded", "eager"]
    for mode, row in rows.items():
        assert row["seconds"] > 0
        assert row["image_tokens"] == 576
        assert row["map_bytes"] == 20 * 3 * 4 * 576 * 2
        assert (row["time_ratio"] == 1) == (mode == "plain")
    # Eager attention's matrices are 18 MB, what is recorded is 0.3 MB.
    assert rows["eager"]["extra_bytes"] > rows["recorded"]["extra_bytes"] + 5e6
    assert content["grounding"]["one_phrase"] < content["grounding"]["all_phrases"]
    assert content["loading"]["peak"] >= 0
    assert content["loading"]["weights"] > 1e5


def test_bench_of_another_number_of_image_tokens() -> None:
    done = bench("--image-tokens", "100")
    assert done.returncode == 2
    assert "--image-tokens is 100; choose 576 or 2880" in done.stderr
