"""An overview of a batch's results: counts, failures, and a sheet of some pictures."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from flmm.answers.json_types import AnswerJson
from flmm.answers.overlay import draw_overlay
from flmm.answers.phrase import Phrase
from flmm.batch.sources.files import PictureFile, is_folder, join_beside
from flmm.batch.storage.manifest import read_source
from flmm.batch.storage.open import ResultPlace
from flmm.errors import InputError
from flmm.exports.pictures import PictureAnswer
from flmm.exports.results import BatchResults
from flmm.pictures.reading import read_picture

_CELL_WIDTH = 480
_COLUMNS = 4
_GAP = 16


@dataclass
class ResultsOverview:
    """What is in a batch's results."""

    results: int = 0
    failed: int = 0
    phrases: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    """Reasons of the first ones, by their ids."""
    sample: list[PictureAnswer] = field(default_factory=list)
    """Some pictures and answers, each as likely as any other."""


@dataclass(frozen=True, eq=False)
class ContactSheet:
    """Pictures with their masks, side by side."""

    image: Image.Image
    unreadable: dict[str, str]
    """Why a picture is not there, by its name."""


def read_overview(path: Path, max_failures: int, sample_size: int) -> ResultsOverview:
    """Read a batch's results, one at a time.

    Args:
        path: a results file or folder.
        max_failures: so many are listed.
        sample_size: so many answers are drawn by chance, the same ones each time.

    Raises:
        InputError: there are no results, or something else.
    """
    overview, chance, seen = ResultsOverview(), random.Random(0), 0
    batch = BatchResults(path)
    for record in batch.records():
        overview.results += 1
        if record.error is not None:
            overview.failed += 1
            if len(overview.failures) < max_failures:
                overview.failures[record.id] = record.error
            continue
        for name, answer in batch.read(record):
            overview.phrases += len(answer["phrases"])
            seen += 1
            if len(overview.sample) < sample_size:
                overview.sample.append((name, answer))
            elif (place := chance.randrange(seen)) < sample_size:
                overview.sample[place] = name, answer
    return overview


def draw_contact_sheet(path: Path, sample: Sequence[PictureAnswer]) -> ContactSheet:
    """Draw answers on their pictures, which are looked for where the batch found them.

    Raises:
        InputError: the results do not say where, or none of the pictures is there.
    """
    source = read_source(ResultPlace(path).control_folder)
    if source is None:
        raise InputError(f"{str(path)!r} does not say where its pictures are; leave out the sheet")
    beside = f"{source}/." if is_folder(source) else source
    cells, unreadable = [], {}
    for name, answer in sample:
        try:
            picture = read_picture(PictureFile(join_beside(beside, name)).load())
        except InputError as error:
            unreadable[name] = str(error)
            continue
        overlay = draw_overlay(picture, answer["text"], _build_phrases(answer))
        scale = _CELL_WIDTH / overlay.width
        size = (_CELL_WIDTH, max(round(overlay.height * scale), 1))
        cells.append(overlay.resize(size, Image.Resampling.LANCZOS))
    if not cells:
        raise InputError(f"none of the pictures can be read in {source!r}; leave out the sheet")
    return ContactSheet(_arrange(cells), unreadable)


def _build_phrases(answer: AnswerJson) -> list[Phrase]:
    return [
        Phrase(
            text=one["text"],
            start=one["start"],
            end=one["end"],
            tokens=(),
            rle=one["mask"],
            box=(one["box"][0], one["box"][1], one["box"][2], one["box"][3]),
            score=one["score"],
        )
        for one in answer["phrases"]
    ]


def _arrange(cells: Sequence[Image.Image]) -> Image.Image:
    rows = [cells[first : first + _COLUMNS] for first in range(0, len(cells), _COLUMNS)]
    heights = [max(cell.height for cell in row) + _GAP for row in rows]
    num_columns = min(len(cells), _COLUMNS)
    sheet = Image.new("RGB", (num_columns * (_CELL_WIDTH + _GAP), sum(heights)), "white")
    top = 0
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            sheet.paste(cell, (column * (_CELL_WIDTH + _GAP), top))
        top += height
    return sheet
