"""The progress of ``flmm batch``: a bar on a terminal, elsewhere a line now and then."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from flmm.cli.console import SECONDS_BETWEEN_LINES, is_terminal, print_message

if TYPE_CHECKING:
    from flmm.batch.run import BatchSummary


@contextmanager
def show_batch_progress(total: int | None) -> "Iterator[Callable[[BatchSummary], None]]":
    """Show how many items are done, the rate and the time left; ``total`` may be unknown."""
    if is_terminal():
        with _show_bar(total) as on_progress:
            yield on_progress
        return
    begin = time.monotonic()
    last = 0.0

    def print_line(summary: "BatchSummary") -> None:
        nonlocal last
        seconds = time.monotonic() - begin
        if seconds - last >= SECONDS_BETWEEN_LINES:
            last = seconds
            print_message(describe_progress(summary, total, seconds))

    yield print_line


def describe_progress(summary: "BatchSummary", total: int | None, seconds: float) -> str:
    """Return one line about a run of so many seconds."""
    rate = summary.new / seconds
    parts = [
        f"{summary.done:,} done" if total is None else f"{summary.done:,} of {total:,}",
        f"{rate:.2f} a second",
    ]
    if total is not None and rate > 0:
        parts.append(f"{timedelta(seconds=round(max(total - summary.done, 0) / rate))} left")
    if summary.failed:
        parts.append(f"{summary.failed:,} failed")
    return ", ".join(parts)


@contextmanager
def _show_bar(total: int | None) -> "Iterator[Callable[[BatchSummary], None]]":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    begin = time.monotonic()
    with Progress(
        BarColumn(), TextColumn("{task.description}"), console=Console(stderr=True)
    ) as bar:
        task = bar.add_task("starting", total=total)

        def on_progress(summary: "BatchSummary") -> None:
            line = describe_progress(summary, total, time.monotonic() - begin)
            bar.update(task, completed=summary.done, description=line)

        yield on_progress
