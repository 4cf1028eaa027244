"""Tasks done by a grounder, several together; a task that fails costs no other its answer."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from flmm.answers.answer import Answer
from flmm.batch.settings import BatchSettings
from flmm.batch.tasks import Task
from flmm.errors import InputError, first_line
from flmm.grounding.grounder import Grounder

_MAX_UNEXPECTED = 20
"""So many failures of flmm in a row are no matter of single pictures."""
_BATCHES_BEFORE_GROWTH = 32


@dataclass(frozen=True, eq=False)
class PictureTask:
    """A task and its picture."""

    picture: Image.Image
    """RGB."""
    task: Task


Outcome = list[Answer] | str
"""The answers to a task, one unless it has several questions; or why there is none."""


class TaskAnswerer:
    """A grounder that does tasks together and isolates those that fail.

    Out of memory halves what is done together, for a while.

    Args:
        grounder: does the tasks.
        settings: how.
        together: so many tasks at most.
    """

    def __init__(self, grounder: Grounder, settings: BatchSettings, together: int) -> None:
        self._grounder = grounder
        self._settings = settings
        self.most = together
        """So many tasks at most."""
        self._num_good = 0
        self._num_unexpected = 0
        self.together = together
        """So many tasks have memory now."""

    @property
    def device(self) -> torch.device:
        """Of the models."""
        return self._grounder.adapter.device

    def answer(self, tasks: Sequence[PictureTask]) -> list[Outcome]:
        """Do tasks; all of one kind, of pictures of like size, take the least time.

        Raises:
            Exception: flmm itself failed many times in a row.
        """
        outcomes: list[Outcome] = []
        while len(outcomes) < len(tasks):
            first = len(outcomes)
            outcomes += self._answer_or_split(tasks[first : first + self.together])
        return outcomes

    def _answer_or_split(self, tasks: Sequence[PictureTask]) -> list[Outcome]:
        try:
            outcomes = self._answer_together(tasks)
        except Exception as error:  # recorded: the others' results do not depend on it
            failure = error
        else:
            self._num_unexpected = 0
            self._grow()
            return outcomes
        is_short_of_memory = _is_out_of_memory(failure)
        reason = self._describe(failure) if len(tasks) == 1 else ""
        # With the traceback goes what filled the memory.
        del failure
        if is_short_of_memory:
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        if len(tasks) == 1:
            return [reason]
        half = len(tasks) // 2
        outcomes = [*self._answer_or_split(tasks[:half]), *self._answer_or_split(tasks[half:])]
        if is_short_of_memory and not any(isinstance(outcome, str) for outcome in outcomes):
            self.together, self._num_good = min(half, self.together), 0
        return outcomes

    def _grow(self) -> None:
        self._num_good += 1
        if self._num_good >= _BATCHES_BEFORE_GROWTH:
            self._num_good = 0
            self.together = min(2 * self.together, self.most)

    def _describe(self, error: Exception) -> str:
        if isinstance(error, InputError):
            return str(error)
        if _is_out_of_memory(error):
            return "out of memory; make the picture smaller, or give fewer phrases"
        self._num_unexpected += 1
        if self._num_unexpected >= _MAX_UNEXPECTED:
            raise error
        return f"{type(error).__name__}: {first_line(error)}"

    def _answer_together(self, tasks: Sequence[PictureTask]) -> list[Outcome]:
        grounder, settings = self._grounder, self._settings
        outcomes: list[list[Answer]] = [[] for _ in tasks]
        questions = []
        for number, (picture, task) in enumerate((one.picture, one.task) for one in tasks):
            if task.text is not None:
                answer = grounder.ground(
                    picture, task.text, task.phrases, question=task.question,
                    **settings.mask_options,
                )  # fmt: skip
                outcomes[number].append(answer)
            elif task.phrases is not None:
                outcomes[number].append(
                    grounder.segment(picture, task.phrases, **settings.mask_options)
                )
            else:
                asked = task.questions or (task.question or "",)
                questions += [(number, (picture, question)) for question in asked]
        size = self.together  # Another thread, whose batch is short of memory, may change it.
        for first in range(0, len(questions), size):
            in_pass = questions[first : first + size]
            answers = grounder.chat_together(
                [question for _, question in in_pass],
                max_new_tokens=settings.max_new_tokens,
                **settings.mask_options,
            )
            for (number, _), answer in zip(in_pass, answers, strict=True):
                outcomes[number].append(answer)
        return [*outcomes]


def _is_out_of_memory(error: Exception) -> bool:
    """Return whether memory was short: of a GPU, of Python, or of torch on the CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
