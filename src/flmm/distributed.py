"""Several processes that work at one run: what fails in one of them fails in all."""

from collections.abc import Callable
from typing import TypeVar

from accelerate import PartialState
from accelerate.utils import gather_object

from flmm.errors import InputError

Result = TypeVar("Result")


def run_on_all_processes(work: Callable[[], Result]) -> Result:
    """This process's part of a work that every process of the run does at this point.

    Where one fails, all raise its message; none is left waiting for it, which on GPUs takes hours.
    Nothing in ``work`` may itself wait for other processes.

    Raises:
        InputError: the work failed, here or in another process.
    """
    if PartialState().num_processes == 1:
        return work()
    failure: InputError | None = None
    made: list[Result] = []
    try:
        made.append(work())
    except InputError as error:
        failure = error
    told: list[str | None] = gather_object([None if failure is None else str(failure)])
    if failure is not None:
        raise failure
    for line in told:
        if line is not None:
            raise InputError(line)
    return made[0]


def run_on_main_process(work: Callable[[], None]) -> None:
    """The first process works, all others wait for it, and fail where it fails.

    Raises:
        InputError: the work failed.
    """
    run_on_all_processes(work if PartialState().is_main_process else lambda: None)
