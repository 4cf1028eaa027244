"""Overlaps of many methods' masks with the true ones, phrase by phrase, and scores with intervals.

Letters: ``n`` phrases, ``K`` methods, ``B`` resamples.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from flmm.atomic_write import atomic_write
from flmm.data.sample import Sample
from flmm.errors import InputError
from flmm.evaluate.metrics import Overlap
from flmm.report.context import ReportContext, key_digest
from flmm.report.data import TEXT_KINDS
from flmm.report.extraction import ExtractedPicture

_PICTURES_PER_FILE = 8


_NUM_RESAMPLES = 2000
PARTS = ("all", "things", "stuff")
_THING_CODES = {True: 1, False: 0, None: -1}


@dataclass(frozen=True)
class Interval:
    """A score in percent, with the 95 % interval of a bootstrap over pictures."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.1f} ({self.low:.1f}–{self.high:.1f})"


@dataclass(frozen=True)
class Score:
    """Of one method over some phrases."""

    cumulative_iou: Interval
    mean_iou: Interval
    phrases: int


@dataclass(frozen=True)
class OverlapTable:
    """A row a phrase, a column a method."""

    picture: Tensor
    """(n,) int64: the picture's number."""
    kind: Tensor
    """(n,) int64: place in ``KINDS``."""
    thing: Tensor
    """(n,) int64: 1 thing, 0 stuff, -1 unknown."""
    intersection: Tensor
    """(n, K) float64, pixels."""
    union: Tensor
    """(n, K) float64, pixels."""

    @staticmethod
    def from_picture(extracted: ExtractedPicture, overlap: Overlap) -> "OverlapTable":
        """One picture's rows; (P, K) overlaps."""
        kinds = list(TEXT_KINDS)
        return OverlapTable(
            torch.full((len(extracted.kinds),), extracted.index),
            torch.tensor([kinds.index(kind) for kind in extracted.kinds]),
            torch.tensor([_THING_CODES[thing] for thing in extracted.is_thing]),
            overlap.intersection,
            overlap.union,
        )

    @staticmethod
    def concatenate(tables: Sequence["OverlapTable"]) -> "OverlapTable":
        """All rows, in order; at least one table."""
        return OverlapTable(
            *(torch.cat([getattr(one, name) for one in tables]) for name in _COLUMNS)
        )

    def save(self, file: Path) -> None:
        """Writes the file, whole or not at all."""
        with atomic_write(file) as place:
            save_file({name: getattr(self, name).contiguous() for name in _COLUMNS}, place)

    @staticmethod
    def load(file: Path) -> "OverlapTable | None":
        """The table in a file; None where there is none, or a damaged one."""
        try:
            found = load_file(file)
            return OverlapTable(*(found[name] for name in _COLUMNS))
        except (OSError, SafetensorError, KeyError):
            return None

    @property
    def num_pictures(self) -> int:
        """How many there are."""
        return len(set(self.picture.tolist()))

    def select_rows(self, kind: str | None, part: str = "all") -> Tensor:
        """(n,) bool: the phrases of one kind of text (None: of all) and of ``PARTS``."""
        chosen = self.kind >= 0 if kind is None else self.kind == list(TEXT_KINDS).index(kind)
        return chosen if part == "all" else chosen & (self.thing == _THING_CODES[part == "things"])

    def compute_scores(self, rows: Tensor) -> list[Score]:
        """Each method's over the chosen phrases, at least one."""
        overlap = Overlap(self.intersection[rows], self.union[rows])
        numbers = self.picture[rows].tolist()
        places = {number: place for place, number in enumerate(dict.fromkeys(numbers))}
        owner = torch.tensor([places[number] for number in numbers])
        count = len(places)

        def by_picture(values: Tensor) -> Tensor:
            return torch.zeros(count, values.shape[1], dtype=torch.float64).index_add(
                0, owner, values.double()
            )

        shared, together, iou = map(by_picture, (overlap.intersection, overlap.union, overlap.iou))
        phrases = by_picture(torch.ones(len(owner), 1))
        weights = _bootstrap_weights(count)
        cumulative = 100 * (weights @ shared) / (weights @ together).clamp_min(1)
        mean = 100 * (weights @ iou) / (weights @ phrases)
        return [
            Score(_percentile_interval(one), _percentile_interval(other), len(owner))
            for one, other in zip(cumulative.T, mean.T, strict=True)
        ]


_COLUMNS = tuple(field.name for field in fields(OverlapTable))


def share_interval(outcomes: Sequence[Sequence[bool]]) -> Interval | None:
    """How much of all is true; each picture has its marks, or none. None where no picture has."""
    counts = torch.tensor([[sum(of_picture), len(of_picture)] for of_picture in outcomes]).double()
    if not counts[:, 1].any():
        return None
    right, asked = (_bootstrap_weights(len(outcomes)) @ counts).T
    # A resample may hold none of the pictures that have marks.
    return _percentile_interval(100 * right[asked > 0] / asked[asked > 0])


def mean_interval(values: Tensor) -> Interval:
    """The mean of (n,) values, one a picture, in percent; at least one."""
    weights = _bootstrap_weights(len(values))
    return _percentile_interval(100 * (weights @ values.double()) / len(values))


def _bootstrap_weights(count: int) -> Tensor:
    """(1 + B, n) float64: how often each of ``count`` pictures is there; first, each once."""
    drawn = np.random.default_rng(0).multinomial(
        count, np.full(count, 1 / count), size=_NUM_RESAMPLES
    )
    return torch.cat([torch.ones(1, count), torch.from_numpy(drawn)]).double()


def _percentile_interval(values: Tensor) -> Interval:
    """(1 + B,): the sample's own value, then the resamples'."""
    low, high = values[1:].quantile(torch.tensor([0.025, 0.975], dtype=values.dtype)).tolist()
    return Interval(values[0].item(), low, high)


def measure_overlaps(
    context: ReportContext,
    cache_name: str,
    samples: Sequence[Sample],
    measure_picture: Callable[[ExtractedPicture], OverlapTable],
) -> OverlapTable:
    """The rows of all pictures that can be read.

    Args:
        bench: with the model.
        what: a name for the measurement, and all that it depends on beside the bench's key.
        samples: the pictures.
        measure: the rows of one of them.

    Raises:
        InputError: none can be read.
    """
    folder = (
        context.work_folder
        / f"{cache_name.split()[0]}-{key_digest({'what': cache_name, **context.cache_key})}"
    )
    folder.mkdir(parents=True, exist_ok=True)
    tables: list[OverlapTable] = []
    begun = time.monotonic()
    made = 0
    for first in range(0, len(samples), _PICTURES_PER_FILE):
        numbers = range(first, min(first + _PICTURES_PER_FILE, len(samples)))
        file = folder / f"{first:06d}.safetensors"
        table = OverlapTable.load(file)
        if table is None:
            rows = [
                measure_picture(seen)
                for seen in context.picture_extractor.extract(samples, numbers)
            ]
            if not rows:
                continue
            table = OverlapTable.concatenate(rows)
            table.save(file)
            made += len(numbers)
        tables.append(table)
        seconds = (time.monotonic() - begun) / max(made, 1) * (len(samples) - numbers.stop)
        context.on_progress(
            numbers.stop, len(samples), f"{cache_name.split()[0]}, {seconds:.0f} s left"
        )
    if not tables:
        raise InputError(f"none of the {len(samples)} pictures can be read; check the data")
    return OverlapTable.concatenate(tables)


def compute_overlaps(extracted: ExtractedPicture, masks: Tensor) -> OverlapTable:
    """A picture's rows; (P, K, H, W) bool, K masks of each phrase."""
    both = [
        compute_phrase_overlap(found, truth, ~ignored)
        for found, truth, ignored in zip(
            masks, extracted.masks, extracted.ignored_masks, strict=True
        )
    ]
    shared, together = torch.stack(both, 1)
    return OverlapTable.from_picture(extracted, Overlap(shared, together))


def compute_phrase_overlap(masks: Tensor, truth: Tensor, valid: Tensor, scale: float = 1) -> Tensor:
    """(2, K) intersections and unions, in pixels ÷ ``scale``; (K, a, b), (a, b) and (a, b) bool."""
    truth = truth & valid
    masks = masks & valid
    shared = (masks & truth).flatten(1).sum(1)
    together = (masks | truth).flatten(1).sum(1)
    return torch.stack([shared, together]).double() / scale
