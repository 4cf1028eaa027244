"""Results that several processes open at the same moment."""

import json
import multiprocessing
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from flmm.batch.sources.files import PictureFile
from flmm.batch.sources.items import Item
from flmm.batch.storage.open import ResultPlace, open_results
from flmm.batch.storage.records import Record
from flmm.batch.tasks import Task
from flmm.errors import InputError


def write_one(folder: Path, part: int, question: str, begin: Barrier, end: Barrier) -> None:
    """Open the results for one of two parts; all who are let in write at the same time."""
    begin.wait()
    try:
        with open_results(ResultPlace(folder), {"question": question}, shard=(part, 2)) as opened:
            end.wait()
            task = Task(image=f"{part}.png", question=question)
            item = Item(task.image, task, PictureFile(task.image), "")
            opened[1].append([Record.of(item, {"error": "not tried"})])
    except InputError as error:
        (folder / f"refused-{part}").write_text(str(error))
        end.wait()


@pytest.mark.parametrize("questions", [("Why?", "Where?"), ("Why?", "Why?")])
@pytest.mark.parametrize("left_by_an_earlier_run", [False, True])
def test_parts_begun_at_once_have_the_same_settings(
    tmp_path: Path, questions: tuple[str, str], left_by_an_earlier_run: bool
) -> None:
    context = multiprocessing.get_context("fork")
    for attempt in range(3):
        folder = tmp_path / f"results-{attempt}"
        if left_by_an_earlier_run:  # which was stopped before its first result
            with open_results(ResultPlace(folder), {"question": "When?"}):
                pass
        barriers = context.Barrier(2), context.Barrier(2)
        writers = [
            context.Process(target=write_one, args=(folder, part, question, *barriers))
            for part, question in enumerate(questions)
        ]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(60)
        journals = folder.glob(".results-*.jsonl")
        lines = [json.loads(line) for file in journals for line in file.read_text().splitlines()]
        settings = json.loads((folder / "manifest.json").read_text())["settings"]
        assert len(lines) == len({line["id"] for line in lines}) == 3 - len(set(questions))
        assert {line["task"]["question"] for line in lines} == {settings["question"]}
        refused = [file.read_text() for file in folder.glob("refused-*")]
        assert len(refused) == len(set(questions)) - 1
        assert all("is for results of other settings: question was" in one for one in refused)
