"""What a run writes down while it goes on: ``log.jsonl``, and its tracker."""

import json
from collections.abc import Mapping
from pathlib import Path

from accelerate import Accelerator

from flmm.atomic_write import atomic_write
from flmm.distributed import run_on_main_process
from flmm.errors import InputError

LOG_FILE_NAME = "log.jsonl"


class TrainingLog:
    """One JSON object a line, and the tracker; goes on after the step that a run goes on from.

    Raises:
        InputError: the log of the run before cannot be read, or none can be written.
    """

    def __init__(
        self, folder: Path, accelerator: Accelerator, steps_per_epoch: int, step: int
    ) -> None:
        self._file = folder / LOG_FILE_NAME
        self._accelerator = accelerator
        self._steps_per_epoch = steps_per_epoch
        run_on_main_process(lambda: _truncate_log(self._file, step))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Called by all processes; the first one writes.

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
    """Drops what a killed run logged after its last checkpoint, for it will be logged again."""
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
        with atomic_write(file) as place:
            place.write_text("".join(kept), encoding="utf-8")
    except OSError as error:
        raise _write_error(file, error) from error


def _write_error(file: Path, error: OSError) -> InputError:
    return InputError(
        f"log {str(file)!r} cannot be written ({error.strerror}); make room and start again: the"
        " last checkpoint stays"
    )
