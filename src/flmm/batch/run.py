"""Run the tasks through a grounder, several answers in one batch.

Grounding one after the other would leave a GPU idle: each token of one answer costs nearly as much
as one of eight.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from flmm.answers.answer import Answer
from flmm.batch.results import TaskResult
from flmm.batch.tasks import Task
from flmm.errors import InputError
from flmm.grounding.grounder import Grounder
from flmm.pictures.reading import read_picture


def run_tasks(
    grounder: Grounder,
    folder: Path,
    tasks: Sequence[Task],
    *,
    batch_size: int,
    max_new_tokens: int,
    refine: bool,
) -> Iterator[list[TaskResult]]:
    """Some tasks' outcomes at a time, in order; a picture that cannot be read has its error.

    Args:
        grounder: who does it.
        folder: where the pictures' names start from.
        tasks: to be done.
        together: so many at a time.
        max_new_tokens, refine: as in ``Grounder.chat``.
    """
    for first in range(0, len(tasks), batch_size):
        chosen = tasks[first : first + batch_size]
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
        yield [_build_result(task, found[task]) for task in chosen]


def _build_result(task: Task, answer: Answer | InputError) -> TaskResult:
    if isinstance(answer, InputError):
        return TaskResult(task, None, str(answer))
    return TaskResult(task, answer, None)
