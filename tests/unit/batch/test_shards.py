"""Shards that are read while another writer changes them."""

import itertools
from collections.abc import Iterable
from pathlib import Path

import pytest

from flmm.batch.sources.files import PictureFile
from flmm.batch.sources.items import Item
from flmm.batch.storage import shard_files, shards
from flmm.batch.storage.lines import LineStore
from flmm.batch.storage.records import Record, ResultState
from flmm.batch.storage.shards import ShardStore
from flmm.batch.tasks import Task
from flmm.errors import InputError
from flmm.exports.results import BatchResults


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "RESULTS_PER_SHARD", 2)


def build_records(names: str, error: str) -> list[Record]:
    tasks = [Task(image=name, question="Why?") for name in names]
    items = [Item(task.image, task, PictureFile(task.image), "") for task in tasks]
    return [Record.of(item, {"error": error}) for item in items]


def last_errors(states: Iterable[ResultState]) -> dict[str, str]:
    return {state.id: state.error or "" for state in states}


def write_two_runs(folder: Path) -> ShardStore:
    """Write a, b, c and d, then c and d again; return the second run's store."""
    store = ShardStore(folder)
    store.append(build_records("ab", "first"))
    store.append(build_records("cd", "first"))
    store.finish(drop_replaced=False)
    again = ShardStore(folder)
    again.append(build_records("cd", "second"))
    return again


def list_shards(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("results-*.parquet"))


EXPECTED = {"a": "first", "b": "first", "c": "second", "d": "second"}


def test_states_outlast_files_that_are_dropped(tmp_path: Path) -> None:
    store = write_two_runs(tmp_path)
    states = ShardStore(tmp_path, (1, 2)).states()
    first = next(states)
    before = list_shards(tmp_path)
    store.finish(drop_replaced=True)
    assert list_shards(tmp_path) == [before[0], before[2]]
    assert last_errors([first, *states]) == EXPECTED


def test_states_outlast_rows_that_are_dropped(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    store.append(build_records("ab", "first"))
    store.append(build_records("cd", "first"))
    states = ShardStore(tmp_path, (1, 2)).states()
    first = next(states)
    again = ShardStore(tmp_path)
    again.append(build_records("c", "second"))
    again.finish(drop_replaced=True)
    assert last_errors([first, *states]) == EXPECTED | {"d": "first"}


def test_results_are_those_of_one_moment(tmp_path: Path) -> None:
    store = write_two_runs(tmp_path)
    store.append(build_records("e", "third"))
    results = BatchResults(tmp_path)
    records = results.records()
    first = next(records)
    # The journal becomes a shard, and another journal is begun under its name.
    store.append(build_records("f", "third"))
    store.append(build_records("a", "third"))
    expected = EXPECTED | {"e": "third"}
    assert last_errors([first, *records]) == expected
    assert last_errors(results.records()) == expected
    assert last_errors(BatchResults(tmp_path).records()) == expected | {"a": "third", "f": "third"}


@pytest.mark.parametrize("kept", ["some rows", "no row"])
def test_results_that_are_dropped_meanwhile_are_told(tmp_path: Path, kept: str) -> None:
    write_two_runs(tmp_path)
    records = BatchResults(tmp_path).records()
    assert next(records).id == "a"
    store = ShardStore(tmp_path)
    store.append(build_records("c" if kept == "some rows" else "cd", "third"))
    store.finish(drop_replaced=True)
    with pytest.raises(InputError, match="tidied up by a batch that ended"):
        list(records)


def test_a_file_that_is_written_anew_meanwhile_is_told(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    store = LineStore(file)
    store.append(build_records("abab", "first"))
    results = BatchResults(file)
    assert last_errors(results.records()) == {"a": "first", "b": "first"}
    store.append(build_records("c", "first"))
    assert len(list(results.records())) == 2
    store.finish(drop_replaced=True)
    with pytest.raises(InputError, match="tidied up by a batch that ended"):
        list(results.records())


def test_a_shard_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    store = write_two_runs(tmp_path)
    (tmp_path / "results-00009-0-of-1-00001.parquet").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="cannot be read"):
        list(BatchResults(tmp_path).records())
    assert len(list(itertools.islice(store.states(), 9))) == 6


def test_files_that_change_all_the_time_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_two_runs(tmp_path)
    numbers = itertools.count()
    files = shard_files.list_files(tmp_path)
    monkeypatch.setattr(shard_files, "list_files", lambda _: files[: next(numbers) % 2 + 1])
    with pytest.raises(InputError, match="its files change all the time"):
        list(BatchResults(tmp_path).records())
