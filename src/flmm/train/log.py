"""The training log: ``log.jsonl`` in the run's folder, and the run's tracker."""

import json
from collections.abc import Mapping
from pathlib import Path

from accelerate import Accelerator

from flmm.atomic_write import atomic_write
from flmm.distributed import run_on_main_process
from flmm.errors import InputError

LOG_FILE_NAME = "log.jsonl"


class TrainingLog:
    """A log with one JSON object a line, also sent to the tracker.

    A resumed run's log continues after ``step``, its last checkpoint.

    Raises:
        InputError: an earlier log cannot be read, or the log cannot be written.
    """

    def __init__(
        self, folder: Path, accelerator: Accelerator, steps_per_epoch: int, step: int
    ) -> None:
        self._file = folder / LOG_FILE_NAME
        self._accelerator = accelerator
        self._steps_per_epoch = steps_per_epoch
        run_on_main_process(lambda: _truncate_log(self._file, step))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write a line; all processes call this, and the main process writes.

        Raises:
            InputError: it cannot be written.
        """
        run_on_main_process(lambda: self._write(step, values))

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        line = {"step": step, "epoch": step / self._steps_per_epoch, **values}
        try:
            with self._file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")
        except OSError as error:
            raise _write_error(self._file, error) from error
        self._accelerator.log(dict(values), step)


def _truncate_log(file: Path, step: int) -> None:
    """Drop lines after ``step``: a resumed run will log these steps again."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    except (OSError, ValueError) as error:
        raise InputError(f"log {str(file)!r} cannot be read ({error}); delete it") from error
    kept = []
    for line in lines:
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue  # the last line of a killed run may be cut
    try:
        with atomic_write(file) as path:
            path.write_text("".join(kept), encoding="utf-8")
    except OSError as error:
        raise _write_error(file, error) from error


def _write_error(file: Path, error: OSError) -> InputError:
    return InputError(
        f"log {str(file)!r} cannot be written ({error.strerror}); make room and start again: the"
        " last checkpoint stays"
    )
