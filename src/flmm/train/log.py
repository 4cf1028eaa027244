"""What a run writes down while it goes on: ``log.jsonl``, and its tracker."""

import json
from collections.abc import Mapping
from pathlib import Path

from accelerate import Accelerator

from flmm.atomic_write import whole_file
from flmm.distributed import first_does
from flmm.errors import InputError

LOG_NAME = "log.jsonl"


class TrainingLog:
    """One JSON object a line, and the tracker; goes on after the step that a run goes on from.

    Raises:
        InputError: the log of the run before cannot be read, or none can be written.
    """

    def __init__(
        self, folder: Path, accelerator: Accelerator, steps_an_epoch: int, step: int
    ) -> None:
        self._file = folder / LOG_NAME
        self._accelerator = accelerator
        self._steps_an_epoch = steps_an_epoch
        first_does(lambda: _keep_lines(self._file, step))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Called by all processes; the first one writes.

        Raises:
            InputError: it cannot be written.
        """
        first_does(lambda: self._write(step, values))

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        line = {"step": step, "epoch": step / self._steps_an_epoch, **values}
        try:
            with self._file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")
        except OSError as error:
            raise _unwritable(self._file, error) from error
        self._accelerator.log(dict(values), step)


def _keep_lines(file: Path, step: int) -> None:
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
        with whole_file(file) as place:
            place.write_text("".join(kept), encoding="utf-8")
    except OSError as error:
        raise _unwritable(file, error) from error


def _unwritable(file: Path, error: OSError) -> InputError:
    return InputError(
        f"log {str(file)!r} cannot be written ({error.strerror}); make room and start again: the"
        " last checkpoint stays"
    )
