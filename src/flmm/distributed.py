"""Work of several processes of one run, where an error in one is raised in all."""

from collections.abc import Callable
from typing import TypeVar

from accelerate import PartialState
from accelerate.utils import gather_object

from flmm.errors import InputError

Result = TypeVar("Result")


def run_on_all_processes(work: Callable[[], Result]) -> Result:
    """Run this process's part of work that every process of the run does at this point.

    If one fails, all raise its message, instead of waiting for it, which on GPUs takes hours.
    ``work`` must not wait for other processes.

    Raises:
        InputError: the work failed, here or in another process.
    """
    if PartialState().num_processes == 1:
        return work()
    failure: InputError | None = None
    results: list[Result] = []
    try:
        results.append(work())
    except InputError as error:
        failure = error
    messages: list[str | None] = gather_object([None if failure is None else str(failure)])
    if failure is not None:
        raise failure
    for message in messages:
        if message is not None:
            raise InputError(message)
    return results[0]


def run_on_main_process(work: Callable[[], None]) -> None:
    """Run the work in the main process; all others wait for it and raise if it fails.

    Raises:
        InputError: the work failed.
    """
    run_on_all_processes(work if PartialState().is_main_process else lambda: None)
