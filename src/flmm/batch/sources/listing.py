"""A list of pictures: a JSON object a line."""

import io
from collections.abc import Iterator
from pathlib import Path

from pydantic import TypeAdapter

from flmm.batch.sources.files import PictureFile, join_beside, open_file, stamp_file
from flmm.batch.sources.items import Item, Source, stamp_content
from flmm.batch.tasks import Task
from flmm.data.readers.files import read_json_line
from flmm.errors import InputError

_TASK_ADAPTER = TypeAdapter(Task)


class ListSource(Source):
    """The lines of a JSONL file: ``image`` and one of question, questions, phrases and text.

    Args:
        file: of the lines; pictures are relative to its folder.
        question: for lines that ask nothing.
        use_digests: whether a changed picture is known by its content.
    """

    def __init__(self, file: str, question: str | None, use_digests: bool) -> None:
        self._file = file
        self._question = question
        self._use_digests = use_digests

    def __iter__(self) -> Iterator[Item]:
        for place, given in self._iterate_tasks():
            task = given.complete(self._question, place)
            path = join_beside(self._file, task.image)
            picture = PictureFile(path)
            yield Item(
                id=task.id or task.image,
                task=task,
                picture=picture,
                stamp=stamp_content(picture) if self._use_digests else stamp_file(path),
            )

    def count(self) -> int:
        count = 0
        for place, task in self._iterate_tasks():
            task.check(self._question, place)
            count += 1
        return count

    def _iterate_tasks(self) -> Iterator[tuple[str, Task]]:
        """Yield each task, not complete, and its place for messages."""
        # Made once: of a million lines, each path would take as long as reading the line.
        file = Path(self._file)
        place = f"{self._file!r}, line "
        for number, line in self._iterate_lines():
            yield f"{place}{number}", read_json_line(line, number, file, _TASK_ADAPTER)

    def _iterate_lines(self) -> Iterator[tuple[int, str]]:
        try:
            with open_file(self._file) as opened:
                for number, line in enumerate(io.TextIOWrapper(opened, encoding="utf-8"), 1):
                    if line.strip():
                        yield number, line
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"{self._file!r} cannot be read ({error}); give a folder of pictures, or a"
                ' list with lines such as {"image": "a.png", "question": "What is it?"}'
            ) from error
