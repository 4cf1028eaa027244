"""Many pictures at a time: a line of JSON for each, resumable, several questions answered together.

Grounding one after the other would leave a GPU idle: each token of one answer costs nearly as much
as one of eight.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from flmm.answer import Answer
from flmm.data.files import read_json_line
from flmm.errors import InputError
from flmm.grounder import Grounder
from flmm.pictures import FORMATS, read_picture

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


@dataclass(frozen=True)
class Outcome:
    """What came of a task."""

    task: Task
    answer: Answer | None
    error: str | None
    """Why there is no answer."""

    @property
    def line(self) -> str:
        """One line of JSON: ``task``, and ``answer`` or ``error``."""
        content: dict[str, object] = {"task": self.task.model_dump(exclude_none=True)}
        if self.answer is None:
            content["error"] = self.error
        else:
            content["answer"] = self.answer.to_dict()
        return json.dumps(content)


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


class Results:
    """The file of results: a line a task, in the tasks' order; what is there is not done again.

    Args:
        file: new, or begun by an earlier call for the same tasks and models.
        tasks: all of them.
        model: the head's name in answers.
        lmm: the LMM's.

    Raises:
        InputError: the file cannot be written, or has results of something else.
    """

    def __init__(self, file: Path, tasks: Sequence[Task], model: str, lmm: str) -> None:
        self._file = file
        try:
            content = file.read_bytes() if file.exists() else b""
            whole = content[: content.rfind(b"\n") + 1]
            self.done = 0
            self.failed = 0
            for line in whole.decode("utf-8", "replace").splitlines():
                self._take(line, tasks, (model, lmm))
            # A line that was cut off when the last call was ended is written anew.
            with file.open("ab") as opened:
                opened.truncate(len(whole))
        except OSError as error:
            raise InputError(
                f"--out {str(file)!r} cannot be written ({error.strerror}); choose another file"
            ) from error

    def _take(self, line: str, tasks: Sequence[Task], models: tuple[str, str]) -> None:
        try:
            content = json.loads(line)
            answer = content.get("answer")
            same = (
                self.done < len(tasks) and Task.model_validate(content["task"]) == tasks[self.done]
            )
            same = same and (answer is None or (answer["model"], answer["lmm"]) == models)
        except (ValueError, KeyError, TypeError, AttributeError):
            same, answer = False, None
        if not same:
            raise InputError(
                f"--out {str(self._file)!r}, line {self.done + 1}, is no result of this work and"
                " model; choose another file"
            )
        self.done += 1
        self.failed += answer is None

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """The next tasks' outcomes, on the disk when this returns.

        Raises:
            InputError: the disk is full, or the file is gone.
        """
        try:
            with self._file.open("a", encoding="utf-8") as opened:
                opened.write("".join(f"{outcome.line}\n" for outcome in outcomes))
                opened.flush()
                os.fsync(opened.fileno())
        except OSError as error:
            raise InputError(
                f"--out {str(self._file)!r} cannot be written ({error.strerror}); what is there"
                " is kept: the same command goes on"
            ) from error
        self.done += len(outcomes)
        self.failed += sum(outcome.answer is None for outcome in outcomes)


def work_through(
    grounder: Grounder,
    folder: Path,
    tasks: Sequence[Task],
    *,
    together: int,
    max_new_tokens: int,
    refine: bool,
) -> Iterator[list[Outcome]]:
    """Some tasks' outcomes at a time, in order; a picture that cannot be read has its error.

    Args:
        grounder: who does it.
        folder: where the pictures' names start from.
        tasks: to be done.
        together: so many at a time.
        max_new_tokens, refine: as in ``Grounder.chat``.
    """
    for first in range(0, len(tasks), together):
        chosen = tasks[first : first + together]
        found: dict[Task, Answer | InputError] = {}
        questions: dict[Task, tuple[Image.Image, str]] = {}
        for task in chosen:
            try:
                picture = read_picture(folder / task.image)
                if task.phrases is not None:
                    found[task] = grounder.segment(picture, task.phrases, refine=refine)
                elif task.question is not None:
                    questions[task] = picture, task.question
            except InputError as error:
                found[task] = error
        answers = grounder.chat_together(
            list(questions.values()), max_new_tokens=max_new_tokens, refine=refine
        )
        found |= dict(zip(questions, answers, strict=True))
        yield [_outcome(task, found[task]) for task in chosen]


def _outcome(task: Task, came_of_it: Answer | InputError) -> Outcome:
    if isinstance(came_of_it, InputError):
        return Outcome(task, None, str(came_of_it))
    return Outcome(task, came_of_it, None)
