"""Prints what `flmm stickers evaluate` measures."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from flmm.checkpoint import from_pretrained
from flmm.lmm import load_lmm
from flmm.stickers.evaluate import (
    CALIBRATION_SCENES,
    MaskScores,
    WordScores,
    calibrate,
    held_out,
    measure_masks,
    measure_words,
)
from flmm.stickers.protocols import captions, references


@dataclass(frozen=True)
class Report:
    """Everything measured, on `scenes` held-out scenes."""

    scenes: int
    words: WordScores
    captions: dict[str, MaskScores]
    references: dict[str, MaskScores]


def _bar(numbers: Sequence[int], title: str) -> Iterator[int]:
    yield from track(numbers, title, console=Console(stderr=True))


def evaluate_embedded(
    scenes: int, folder: Path, calibration_scenes: int = CALIBRATION_SCENES
) -> Report:
    """Measure the model in `folder` (with its parts `lmm` and `head`).

    Raises InputError if a part is missing there.
    """
    adapter = load_lmm(str(folder / "lmm"))
    head = from_pretrained(folder / "head").eval()
    worlds = held_out(scenes)
    calibration = calibrate(adapter, head, calibration_scenes)
    return Report(
        scenes,
        measure_words(adapter, head, worlds, _bar),
        measure_masks(adapter, head, calibration, worlds, captions, _bar),
        measure_masks(adapter, head, calibration, worlds, references, _bar),
    )


def print_report(report: Report, as_json: bool) -> None:
    """As tables, or as one JSON document."""
    if as_json:
        typer.echo(json.dumps(asdict(report), indent=2))
        return
    words = Table("words", "share", title=f"{report.scenes} held-out scenes")
    for name, share in (
        ("things and stuff named in captions", report.words.named),
        ("things named", report.words.named_things),
        ("stuff named", report.words.named_stuff),
        ("named things that are absent", report.words.absent),
        *((f"questions: {task}", share) for task, share in report.words.answers.items()),
        ("keyword selector F1", report.words.keyword_f1),
    ):
        words.add_row(name, f"{share:.1%}")
    console = Console()
    console.print(words)
    for title, scores in (
        ("masks of all phrases of a caption", report.captions),
        ("masks of one referring expression at a time", report.references),
    ):
        table = Table(
            "method", "things cIoU", "things mIoU", "stuff cIoU", "stuff mIoU", title=title
        )
        for method, score in scores.items():
            table.add_row(method, *(f"{value:.3f}" for value in asdict(score).values()))
        console.print(table)
