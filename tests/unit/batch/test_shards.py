"""Shards that are read while another writer changes them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from flmm.batch.sources.files import PictureFile
from flmm.batch.sources.items import Item
from flmm.batch.storage import shards
from flmm.batch.storage.records import Record, ResultState
from flmm.batch.storage.shards import ShardStore, read_shards
from flmm.batch.tasks import Task


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "RESULTS_PER_SHARD", 2)


def build_records(names: str, error: str) -> list[Record]:
    tasks = [Task(image=name, question="Why?") for name in names]
    items = [Item(task.image, task, PictureFile(task.image), "") for task in tasks]
    return [Record.of(item, {"error": error}) for item in items]


def last_errors(states: Iterator[ResultState], first: Sequence[ResultState]) -> dict[str, str]:
    return {state.id: state.error or "" for state in (*first, *states)}


def write_two_runs(folder: Path) -> ShardStore:
    """Write a, b, c and d, then c and d again; return the second run's store."""
    store = ShardStore(folder)
    store.append(build_records("ab", "first"))
    store.append(build_records("cd", "first"))
    store.finish(drop_replaced=False)
    again = ShardStore(folder)
    again.append(build_records("cd", "second"))
    return again


def test_states_outlast_files_that_are_dropped(tmp_path: Path) -> None:
    store = write_two_runs(tmp_path)
    states = ShardStore(tmp_path, (1, 2)).states()
    first = next(states)
    files = len(list(tmp_path.glob("results-*.parquet")))
    store.finish(drop_replaced=True)
    assert len(list(tmp_path.glob("results-*.parquet"))) == files - 1
    expected = {"a": "first", "b": "first", "c": "second", "d": "second"}
    assert last_errors(states, [first]) == expected


def test_results_outlast_a_journal_that_becomes_a_shard(tmp_path: Path) -> None:
    store = write_two_runs(tmp_path)
    store.append(build_records("e", "third"))
    records = read_shards(tmp_path)
    first = next(records)
    assert list(tmp_path.glob(".results-*.jsonl"))
    # What was in the journal goes on in a shard that was not there when the first was read.
    store.finish(drop_replaced=False)
    assert last_errors(records, [first])["e"] == "third"


def test_a_file_that_cannot_be_opened_is_read_once(tmp_path: Path) -> None:
    write_two_runs(tmp_path)
    (tmp_path / "results-00009-0-of-1-00001.parquet").symlink_to(tmp_path / "nowhere")
    assert len(list(read_shards(tmp_path))) == 6
