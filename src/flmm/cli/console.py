"""What commands show: results on standard output, everything else on standard error."""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from flmm.answers.palette import contrasting_text_colour, phrase_colour, to_hex

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from flmm.answers.answer import Answer
    from flmm.progress import ProgressCallback

_MAX_PROGRESS_LINES = 20
"""In a log that nobody watches, at most."""


def is_terminal() -> bool:
    """Whether somebody may be watching standard error."""
    return sys.stderr.isatty()


def print_message(message: str) -> None:
    """One line on standard error, whatever is in the message."""
    print(f"flmm: {' '.join(message.split())}", file=sys.stderr)


@contextmanager
def show_spinner(message: str | None) -> Iterator[None]:
    """Shows a spinner on standard error when that is a terminal; None shows nothing."""
    if message is None or not is_terminal():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(message):
        yield


@contextmanager
def show_progress() -> "Iterator[ProgressCallback]":
    """A bar with the time that is left, or now and then a line where nobody watches."""
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
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), disable=not is_terminal()) as bar:
        task = bar.add_task("starting", total=None)
        told = -1

        def watch(done: int, total: int, how: str) -> None:
            nonlocal told
            bar.update(task, completed=done, total=total, description=how)
            share = done * _MAX_PROGRESS_LINES // total
            if bar.disable and share != told:
                told = share
                print_message(f"{done} of {total}: {how}")

        yield watch


def print_json(content: Mapping[str, object]) -> None:
    """One JSON document on standard output, in ASCII so that it suits any terminal."""
    print(json.dumps(content))


def show_answer(answer: "Answer", overlay: Path | None, as_json: bool) -> None:
    """Prints an answer, and saves its overlay first when there is a place for it."""
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
    """The text with each phrase on its colour."""
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
    table.add_column("box (x0, y0, x1, y1)")
    table.add_column("area", justify="right")
    height, width = answer.size
    for index, phrase in enumerate(answer.phrases):
        table.add_row(
            Text(f" {index + 1} ", _phrase_style(index)),
            Text(replace_control_characters(phrase.text)),
            f"{phrase.score:.2f}",
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
    """The same number of characters, without those that would command a terminal."""
    return "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in text)
