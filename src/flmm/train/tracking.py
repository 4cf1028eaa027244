"""Start and end of a run's experiment tracker, through accelerate."""

import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator

from flmm.atomic_write import write_file_atomically
from flmm.distributed import run_on_all_processes
from flmm.errors import InputError, first_line
from flmm.train.settings import Tracker, TrainingSettings

_PROJECT = "flmm"


def check_tracker(accelerator: Accelerator, tracker: Tracker | None) -> None:
    """Check that the accelerator can use the tracker.

    Raises:
        InputError: the tracker's package is not installed; accelerate would ignore it.
    """
    if tracker is not None and not accelerator.log_with:
        raise InputError(
            f"tracker is {tracker.value!r}, whose package is not installed here; pip install"
            f" {tracker.value}, or leave tracker out"
        )


@contextmanager
def track_run(accelerator: Accelerator, settings: TrainingSettings) -> Iterator[None]:
    """Start the run's tracker, if it has one, and end it after the block.

    Raises:
        InputError: it does not start, as W&B without a login.
    """
    tracker = settings.tracker
    if tracker is not None:
        run_on_all_processes(lambda: _start_tracker(accelerator, settings, tracker))
    try:
        yield
    finally:
        accelerator.end_training()
        if tracker is Tracker.TRACKIO and accelerator.is_main_process:
            _finish_trackio()


def _start_tracker(accelerator: Accelerator, settings: TrainingSettings, tracker: Tracker) -> None:
    content = settings.model_dump(mode="json")
    configuration = {name: str(value) for name, value in content.items()}
    try:
        run_id = _get_or_create_run_id(settings.out) if accelerator.is_main_process else None
        options = {
            # By default W&B writes to ./wandb.
            Tracker.WANDB.value: {"dir": str(settings.out), "id": run_id, "resume": "allow"},
            Tracker.TRACKIO.value: {"name": run_id, "resume": "allow"},
        }
        accelerator.init_trackers(_PROJECT, configuration, options)
    except Exception as error:  # trackers raise many types, also for network errors
        raise InputError(
            f"tracker {tracker.value!r} does not start ({first_line(error)}); mend that, or leave"
            " tracker out"
        ) from error


def _get_or_create_run_id(out: Path) -> str:
    """Return the run's id for the tracker, saved so that a resumed training is the same run."""
    file = out / "tracker-run"
    if not file.exists():
        write_file_atomically(file, uuid.uuid4().hex[:12].encode())
    return file.read_text(encoding="utf-8")


def _finish_trackio() -> None:
    """Finish trackio's run now: at exit it would do so again and print a line."""
    trackio = sys.modules["trackio"]
    trackio.finish()
