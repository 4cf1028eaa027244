"""The output of commands: results on standard output, everything else on standard error."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from flmm.answers.palette import contrasting_text_colour, phrase_colour, to_hex
from flmm.progress import no_progress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from flmm.answers.answer import Answer
    from flmm.progress import ProgressCallback

SECONDS_BETWEEN_LINES = 10.0
"""Between lines of progress, and before the first, where standard error is no terminal."""

_SPEED_SECONDS = 600.0
"""The time left follows from the steps of so long at most; steps of minutes have one too."""


def is_terminal() -> bool:
    """Return whether standard error is a terminal."""
    return sys.stderr.isatty()


def print_message(message: str) -> None:
    """Print a message as one line on standard error."""
    print(f"flmm: {' '.join(message.split())}", file=sys.stderr)


@contextmanager
def show_spinner(message: str | None) -> Iterator[None]:
    """Show a spinner on standard error when that is a terminal; None shows nothing."""
    if message is None or not is_terminal():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(message):
        yield


@contextmanager
def show_progress() -> "Iterator[ProgressCallback]":
    """Show a progress bar with the time left; without a terminal, print a line now and then."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(
        *columns,
        console=Console(stderr=True),
        disable=not is_terminal(),
        speed_estimate_period=_SPEED_SECONDS,
    ) as bar:
        task = bar.add_task("starting", total=None)
        last_done = -1
        last_printed = time.monotonic()
        has_printed = False

        def on_progress(done: int, total: int, description: str) -> None:
            nonlocal last_printed, last_done, has_printed
            if done < last_done:  # another stage, even if it has as many steps
                bar.reset(task)
            # Only once: after its last step, training reports that number with each validation.
            ends = last_done != done == total
            last_done = done
            bar.update(task, completed=done, total=total, description=description)
            now = time.monotonic()
            is_due = now - last_printed >= SECONDS_BETWEEN_LINES or (has_printed and ends)
            if bar.disable and is_due:
                last_printed, has_printed = now, True
                seconds = bar.tasks[task].time_remaining
                left = "" if seconds is None else f", {timedelta(seconds=seconds)} left"
                print_message(f"{done:,} of {total:,}{left}: {description}")

        yield on_progress


@contextmanager
def show_stage_progress(title: str, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """Show the progress of one stage, called with (number done, total); in one process of all."""
    with show_progress() if shown else nullcontext(no_progress) as on_progress:
        yield lambda done, total: on_progress(done, total, title)


def print_json(content: Mapping[str, object]) -> None:
    """Print one JSON document on standard output, in ASCII so that any terminal shows it."""
    print(json.dumps(content))


def show_answer(answer: "Answer", overlay: Path | None, as_json: bool) -> None:
    """Print an answer, after saving its overlay if a path is given."""
    if overlay is not None:
        answer.save(overlay)
    if as_json:
        print_json(answer.to_dict())
        return
    from rich.console import Console

    console = Console(highlight=False)
    console.print(_highlight_phrases(answer), soft_wrap=not console.is_terminal)
    _print_phrases(answer, console)
    if overlay is not None:
        console.print(f"Overlay: {overlay}", markup=False, soft_wrap=True)


def _highlight_phrases(answer: "Answer") -> "Text":
    """Return the text with each phrase on its colour."""
    from rich.text import Text

    text = Text(replace_control_characters(answer.text))
    for index, phrase in enumerate(answer.phrases):
        text.stylize(_phrase_style(index), phrase.start, phrase.end)
    return text


def _print_phrases(answer: "Answer", console: "Console") -> None:
    from rich.table import Table
    from rich.text import Text

    if not answer.phrases:
        console.print("(no phrase of this answer was grounded)")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    table.add_column("phrase", overflow="fold")
    table.add_column("score", justify="right")
    if answer.later_pictures:
        table.add_column("picture", justify="right")
    table.add_column("box (x0, y0, x1, y1)")
    table.add_column("area", justify="right")
    for index, phrase in enumerate(answer.phrases):
        height, width = phrase.rle["size"]
        table.add_row(
            Text(f" {index + 1} ", _phrase_style(index)),
            Text(replace_control_characters(phrase.text)),
            f"{phrase.score:.2f}",
            *([str(phrase.picture + 1)] if answer.later_pictures else []),
            ", ".join(map(str, phrase.box)) if phrase.area else "not found",
            f"{phrase.area / (height * width):.1%}",
        )
    console.print()
    console.print(table)
    console.print()


def _phrase_style(index: int) -> str:
    colour = phrase_colour(index)
    return f"{to_hex(contrasting_text_colour(colour))} on {to_hex(colour)}"


def replace_control_characters(text: str) -> str:
    """Replace each control character, which a terminal would act on, by a space."""
    return "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in text)
