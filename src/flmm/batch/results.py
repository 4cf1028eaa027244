"""The results file: one JSON line for each task; a later run resumes it."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flmm.answers.answer import Answer
from flmm.batch.tasks import Task
from flmm.errors import InputError


@dataclass(frozen=True)
class TaskResult:
    """The answer to a task, or the error."""

    task: Task
    answer: Answer | None
    error: str | None
    """Why there is no answer."""

    def to_json_line(self, mask_model: str) -> str:
        """Return one line of JSON: ``task``, and ``answer`` and ``mask_model``, or ``error``."""
        content: dict[str, object] = {"task": self.task.model_dump(exclude_none=True)}
        if self.answer is None:
            content["error"] = self.error
        else:
            content |= {"answer": self.answer.to_dict(), "mask_model": mask_model}
        return json.dumps(content)


class ResultsFile:
    """The results file: a line for each task, in order; tasks that have one are not run again.

    Args:
        file: new, or of an earlier run with the same tasks and models.
        tasks: all of them.
        model: the head's name in answers.
        lmm: the LMM's name.
        mask_model: what makes the masks, as a hash (``mask_model_fingerprint``): answers have the
            same ``model`` whatever their SAM or profile.

    Raises:
        InputError: the file cannot be written, or has results of other tasks or models.
    """

    def __init__(
        self, file: Path, tasks: Sequence[Task], model: str, lmm: str, mask_model: str
    ) -> None:
        self._file = file
        self._mask_model = mask_model
        try:
            content = file.read_bytes() if file.exists() else b""
            complete_lines = content[: content.rfind(b"\n") + 1]
            self.num_done = 0
            self.num_failed = 0
            for line in complete_lines.decode("utf-8", "replace").splitlines():
                self._read_line(line, tasks, (model, lmm))
            # Drops an incomplete last line of a run that was interrupted; its task runs again.
            with file.open("ab") as opened:
                opened.truncate(len(complete_lines))
        except OSError as error:
            raise InputError(
                f"--out {str(file)!r} cannot be written ({error.strerror}); choose another file"
            ) from error

    def _read_line(self, line: str, tasks: Sequence[Task], models: tuple[str, str]) -> None:
        try:
            content = json.loads(line)
            answer = content.get("answer")
            same = (
                self.num_done < len(tasks)
                and Task.model_validate(content["task"]) == tasks[self.num_done]
            )
            same = same and (answer is None or (answer["model"], answer["lmm"]) == models)
            # Results of older versions do not say.
            same = same and content.get("mask_model") in (None, self._mask_model)
        except (ValueError, KeyError, TypeError, AttributeError):
            same, answer = False, None
        if not same:
            raise InputError(
                f"--out {str(self._file)!r}, line {self.num_done + 1}, is no result of this work"
                " and model; choose another file"
            )
        self.num_done += 1
        self.num_failed += answer is None

    def append(self, results: Sequence[TaskResult]) -> None:
        """Append the next tasks' results; they are on the disk when this returns.

        Raises:
            InputError: the disk is full, or the file is gone.
        """
        try:
            with self._file.open("a", encoding="utf-8") as opened:
                opened.write(
                    "".join(f"{result.to_json_line(self._mask_model)}\n" for result in results)
                )
                opened.flush()
                os.fsync(opened.fileno())
        except OSError as error:
            raise InputError(
                f"--out {str(self._file)!r} cannot be written ({error.strerror}); what is there"
                " is kept: the same command goes on"
            ) from error
        self.num_done += len(results)
        self.num_failed += sum(result.answer is None for result in results)
