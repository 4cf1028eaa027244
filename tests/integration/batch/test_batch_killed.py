"""Batches whose processes are killed at random moments."""

from pathlib import Path

import pytest
from batch_kills import kill_and_compare
from tiny_grounding import save_lmm, save_tiny_head

import flmm
from flmm.batch.storage import shards


@pytest.mark.parametrize(("as_lines", "num_parts"), [(False, 1), (False, 3), (True, 1)])
def test_nothing_is_lost_or_there_twice(
    as_lines: bool, num_parts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "RESULTS_PER_SHARD", 20)  # set back afterwards
    head = save_tiny_head(tmp_path / "head", str(save_lmm(tmp_path / "lmm")))
    count, hits = kill_and_compare(
        flmm.Grounder.from_pretrained(head),
        tmp_path,
        num_pictures=40,
        num_kills=3,
        num_parts=num_parts,
        as_lines=as_lines,
        seed=1,
    )
    assert count >= 35
    assert hits >= 3
