"""The tasks of a batch: a folder's pictures, or the lines of a JSONL file."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from flmm.data.readers.files import read_json_line
from flmm.errors import InputError
from flmm.pictures.folder import find_pictures

_NonEmptyText = Annotated[str, Field(min_length=1)]


class Task(BaseModel):
    """One picture with a question about it, a text to ground or phrases to segment in it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    image: _NonEmptyText
    """As in the list: relative to the list's folder, or absolute."""
    question: _NonEmptyText | None = None
    """With ``text``, what the text answers."""
    text: _NonEmptyText | None = None
    phrases: Annotated[tuple[_NonEmptyText, ...], Field(min_length=1, strict=False)] | None = None
    """With ``text``, which of its phrases are grounded."""


_TASK_ADAPTER = TypeAdapter(Task)


def read_tasks(source: Path, question: str | None) -> tuple[Path, list[Task]]:
    """Return the folder that the pictures' paths are relative to, and the tasks.

    Args:
        source: a folder, with ``question`` for each of its pictures, in the order of their names;
            or a list, a JSON object a line with ``image`` and one of ``question``,
            ``text`` and ``phrases`` (with a text, also the others).
        question: needed for a folder; in a list, for lines that have none of them.

    Raises:
        InputError: there is no task, or a line is not of that form; names the line.
    """
    if source.is_dir():
        if question is None:
            raise InputError(
                f"what is asked about the pictures of {str(source)!r}? give a QUESTION"
            )
        files = find_pictures(source)
        tasks = [Task(image=str(file.relative_to(source)), question=question) for file in files]
        folder = source
    else:
        try:
            lines = source.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"{str(source)!r} cannot be read ({error}); give a folder of pictures, or a list"
                ' with lines such as {"image": "a.png", "question": "What is it?"}'
            ) from error
        tasks = [
            _fill_in_question(
                read_json_line(line, number, source, _TASK_ADAPTER), question, number, source
            )
            for number, line in enumerate(lines, 1)
            if line.strip()
        ]
        folder = source.parent
    if not tasks:
        raise InputError(f"{str(source)!r} has no picture; nothing was done")
    return folder, tasks


def _fill_in_question(task: Task, question: str | None, line_number: int, file: Path) -> Task:
    if task.text is not None:
        return task
    if task.question is None and task.phrases is None and question is not None:
        return task.model_copy(update={"question": question})
    if (task.question is None) == (task.phrases is None):
        raise InputError(
            f"{str(file)!r}, line {line_number}: give either question or phrases with the image,"
            " or a text"
        )
    return task
