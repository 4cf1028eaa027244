"""The work list: pictures of a folder, or the lines of a JSONL file."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from flmm.data.readers.files import read_json_line
from flmm.errors import InputError
from flmm.pictures.reading import FORMATS

_Text = Annotated[str, Field(min_length=1)]
_ENDINGS = frozenset(
    {f".{form.lower()}" for form in FORMATS} | {".jpg", ".tif", ".pgm", ".pbm", ".jp2"}
)


class Task(BaseModel):
    """One picture, and what is asked about it or looked for in it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    image: _Text
    """As the list names it: relative to the list's folder, or absolute."""
    question: _Text | None = None
    phrases: Annotated[tuple[_Text, ...], Field(min_length=1, strict=False)] | None = None


_TASK = TypeAdapter(Task)


def read_tasks(work: Path, question: str | None) -> tuple[Path, list[Task]]:
    """What is to be done, and the folder that the pictures' names start from.

    Args:
        work: a folder, whose pictures are all asked ``question``, in the order of their names; or
            a list, a JSON object a line with ``image`` and either ``question`` or ``phrases``.
        question: needed for a folder; in a list, for lines that have neither.

    Raises:
        InputError: there is nothing to do, or a line is not of that form; names the line.
    """
    if work.is_dir():
        if question is None:
            raise InputError(f"what is asked about the pictures of {str(work)!r}? give a QUESTION")
        files = sorted(file for file in work.rglob("*") if file.suffix.lower() in _ENDINGS)
        tasks = [Task(image=str(file.relative_to(work)), question=question) for file in files]
        folder = work
    else:
        try:
            lines = work.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"{str(work)!r} cannot be read ({error}); give a folder of pictures, or a list with"
                ' lines such as {"image": "a.png", "question": "What is it?"}'
            ) from error
        tasks = [
            _with_question(read_json_line(line, number, work, _TASK), question, number, work)
            for number, line in enumerate(lines, 1)
            if line.strip()
        ]
        folder = work.parent
    if not tasks:
        raise InputError(f"{str(work)!r} has no picture; nothing was done")
    return folder, tasks


def _with_question(task: Task, question: str | None, number: int, file: Path) -> Task:
    if task.question is None and task.phrases is None and question is not None:
        return task.model_copy(update={"question": question})
    if (task.question is None) == (task.phrases is None):
        raise InputError(
            f"{str(file)!r}, line {number}: give either question or phrases with the image"
        )
    return task
