"""Tasks run by a grounder, several answers in one batch.

One answer at a time would leave a GPU idle: a token of one answer costs nearly as much time as one
of eight answers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from PIL import Image

from flmm.answers.answer import Answer
from flmm.batch.results import TaskResult
from flmm.batch.tasks import Task
from flmm.errors import InputError
from flmm.evaluate.benchmark import mask_model_fingerprint
from flmm.grounding.grounder import Grounder
from flmm.grounding.mask_options import DEFAULT_MASK_OPTIONS, MaskKeywords, MaskOptions
from flmm.pictures.reading import read_picture


def run_tasks(
    grounder: Grounder,
    folder: Path,
    tasks: Sequence[Task],
    *,
    batch_size: int,
    max_new_tokens: int,
    mask_options: MaskKeywords,
) -> Iterator[list[TaskResult]]:
    """Yield the results of each batch of tasks, in order; an unreadable picture's is its error.

    Args:
        grounder: runs the tasks.
        folder: that the pictures' paths are relative to.
        tasks: to be run.
        batch_size: tasks in a batch.
        max_new_tokens, mask_options: as in ``Grounder.chat``.
    """
    for first in range(0, len(tasks), batch_size):
        in_batch = tasks[first : first + batch_size]
        outcomes: dict[Task, Answer | InputError] = {}
        questions: dict[Task, tuple[Image.Image, str]] = {}
        for task in in_batch:
            try:
                picture = read_picture(folder / task.image)
                if task.text is not None:
                    outcomes[task] = grounder.ground(
                        picture, task.text, task.phrases, question=task.question, **mask_options
                    )
                elif task.phrases is not None:
                    outcomes[task] = grounder.segment(picture, task.phrases, **mask_options)
                elif task.question is not None:
                    questions[task] = picture, task.question
            except InputError as error:
                outcomes[task] = error
        answers = _answer(grounder, list(questions.values()), max_new_tokens, mask_options)
        outcomes |= dict(zip(questions, answers, strict=True))
        yield [_build_result(task, outcomes[task]) for task in in_batch]


def describe_mask_model(grounder: Grounder, mask_options: MaskKeywords) -> str:
    """Return what results say of their masks: the model's fingerprint and the other options."""
    options, default = asdict(MaskOptions(**mask_options)), asdict(DEFAULT_MASK_OPTIONS)
    description = mask_model_fingerprint(grounder)
    if not options.pop("refine"):
        description += " without refinement"
    changed = [f" {name}={value}" for name, value in options.items() if value != default[name]]
    return "".join([description, *changed])


def _answer(
    grounder: Grounder,
    questions: list[tuple[Image.Image, str]],
    max_new_tokens: int,
    mask_options: MaskKeywords,
) -> list[Answer | InputError]:
    """Return the answer to each question, or why it cannot be asked."""
    try:
        return [*grounder.chat_together(questions, max_new_tokens=max_new_tokens, **mask_options)]
    except InputError as error:
        if len(questions) == 1:
            return [error]
        # One question, such as a text that is too long, does not keep the others from an answer.
        return [
            answer
            for question in questions
            for answer in _answer(grounder, [question], max_new_tokens, mask_options)
        ]


def _build_result(task: Task, answer: Answer | InputError) -> TaskResult:
    if isinstance(answer, InputError):
        return TaskResult(task, None, str(answer))
    return TaskResult(task, answer, None)
