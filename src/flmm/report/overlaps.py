"""Overlaps of several methods' masks with true masks, and scores with intervals.

Letters: ``n`` phrases, ``K`` methods, ``B`` resamples.
"""

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
    """The score of one method over some phrases."""

    cumulative_iou: Interval
    mean_iou: Interval
    phrases: int


@dataclass(frozen=True)
class OverlapTable:
    """A table with one row for each phrase and one column for each method."""

    picture: Tensor
    """(n,) int64: the picture's index."""
    kind: Tensor
    """(n,) int64: index into ``TEXT_KINDS``."""
    thing: Tensor
    """(n,) int64: 1 thing, 0 stuff, -1 unknown."""
    intersection: Tensor
    """(n, K) float64, pixels."""
    union: Tensor
    """(n, K) float64, pixels."""

    @staticmethod
    def from_picture(extracted: ExtractedPicture, overlap: Overlap) -> "OverlapTable":
        """Return one picture's rows, from (P, K) overlaps."""
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
        """Join the rows of at least one table, in order."""
        return OverlapTable(
            *(torch.cat([getattr(table, name) for table in tables]) for name in _COLUMNS)
        )

    def save(self, file: Path) -> None:
        """Write the file, whole or not at all."""
        with atomic_write(file) as path:
            save_file({name: getattr(self, name).contiguous() for name in _COLUMNS}, path)

    @staticmethod
    def load(file: Path) -> "OverlapTable | None":
        """Load a file; None if it is missing or damaged."""
        try:
            tensors = load_file(file)
            return OverlapTable(*(tensors[name] for name in _COLUMNS))
        except (OSError, SafetensorError, KeyError):
            return None

    @property
    def num_pictures(self) -> int:
        """Number of different pictures."""
        return len(set(self.picture.tolist()))

    def select_rows(self, kind: str | None, part: str = "all") -> Tensor:
        """Return (n,) bool: the phrases of a kind of text (None: all), and of one of ``PARTS``."""
        rows = self.kind >= 0 if kind is None else self.kind == list(TEXT_KINDS).index(kind)
        return rows if part == "all" else rows & (self.thing == _THING_CODES[part == "things"])

    def compute_scores(self, rows: Tensor) -> list[Score]:
        """Compute each method's score over the given rows, (n,) bool with at least one true."""
        overlap = Overlap(self.intersection[rows], self.union[rows])
        pictures = self.picture[rows].tolist()
        indices = {picture: index for index, picture in enumerate(dict.fromkeys(pictures))}
        owner = torch.tensor([indices[picture] for picture in pictures])
        count = len(indices)

        def sum_by_picture(values: Tensor) -> Tensor:
            return torch.zeros(count, values.shape[1], dtype=torch.float64).index_add(
                0, owner, values.double()
            )

        intersection, union, iou = map(
            sum_by_picture, (overlap.intersection, overlap.union, overlap.iou)
        )
        phrases = sum_by_picture(torch.ones(len(owner), 1))
        weights = _bootstrap_weights(count)
        cumulative = 100 * (weights @ intersection) / (weights @ union).clamp_min(1)
        mean = 100 * (weights @ iou) / (weights @ phrases)
        return [
            Score(_percentile_interval(cumulative_iou), _percentile_interval(mean_iou), len(owner))
            for cumulative_iou, mean_iou in zip(cumulative.T, mean.T, strict=True)
        ]


_COLUMNS = tuple(field.name for field in fields(OverlapTable))


def share_interval(outcomes: Sequence[Sequence[bool]]) -> Interval | None:
    """Return the share of true outcomes, given by picture; None without any outcome."""
    counts = torch.tensor([[sum(picture), len(picture)] for picture in outcomes]).double()
    if not counts[:, 1].any():
        return None
    true, total = (_bootstrap_weights(len(outcomes)) @ counts).T
    # A resample may have only pictures without outcomes.
    return _percentile_interval(100 * true[total > 0] / total[total > 0])


def mean_interval(values: Tensor) -> Interval:
    """Return the mean, in percent, of (n,) values, one for each of at least one picture."""
    weights = _bootstrap_weights(len(values))
    return _percentile_interval(100 * (weights @ values.double()) / len(values))


def _bootstrap_weights(count: int) -> Tensor:
    """Return (1 + B, count) float64: how often each resample has each picture; first, each once."""
    resamples = np.random.default_rng(0).multinomial(
        count, np.full(count, 1 / count), size=_NUM_RESAMPLES
    )
    return torch.cat([torch.ones(1, count), torch.from_numpy(resamples)]).double()


def _percentile_interval(values: Tensor) -> Interval:
    """Return the interval of (1 + B,) values: the sample's own, then the resamples'."""
    low, high = values[1:].quantile(torch.tensor([0.025, 0.975], dtype=values.dtype)).tolist()
    return Interval(values[0].item(), low, high)


def measure_overlaps(
    context: ReportContext,
    cache_name: str,
    samples: Sequence[Sample],
    measure_picture: Callable[[ExtractedPicture], OverlapTable],
) -> OverlapTable:
    """Measure all pictures that can be read, except those already on disk; return their rows.

    Args:
        context: the model, and the folder of the tables on disk.
        cache_name: a name, a blank, and all that rows depend on beside ``context.cache_key``.
        samples: the pictures.
        measure_picture: returns one picture's rows.

    Raises:
        InputError: none can be read.
    """
    what = cache_name.split()[0]
    folder = context.work_folder / f"{what}-{key_digest({'what': cache_name, **context.cache_key})}"
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        range(first, min(first + _PICTURES_PER_FILE, len(samples))): folder
        / f"{first:06d}.safetensors"
        for first in range(0, len(samples), _PICTURES_PER_FILE)
    }
    tables = {indices: OverlapTable.load(file) for indices, file in files.items()}
    done = sum(len(indices) for indices, table in tables.items() if table is not None)
    # All that is on disk at once: it took no time, which would make the time left too short.
    context.on_progress(done, len(samples), what)
    for indices, file in files.items():
        if tables[indices] is not None:
            continue
        rows = [
            measure_picture(extracted)
            for extracted in context.picture_extractor.extract(samples, indices)
        ]
        if rows:
            tables[indices] = table = OverlapTable.concatenate(rows)
            table.save(file)
        done += len(indices)
        context.on_progress(done, len(samples), what)
    measured = [table for table in tables.values() if table is not None]
    if not measured:
        raise InputError(f"none of the {len(samples)} pictures can be read; check the data")
    return OverlapTable.concatenate(measured)


def compute_overlaps(extracted: ExtractedPicture, masks: Tensor) -> OverlapTable:
    """Return a picture's rows, from (P, K, H, W) bool: K masks of each phrase."""
    overlaps = [
        compute_phrase_overlap(phrase_masks, truth, ~ignored)
        for phrase_masks, truth, ignored in zip(
            masks, extracted.masks, extracted.ignored_masks, strict=True
        )
    ]
    intersections, unions = torch.stack(overlaps, 1)
    return OverlapTable.from_picture(extracted, Overlap(intersections, unions))


def compute_phrase_overlap(masks: Tensor, truth: Tensor, valid: Tensor, scale: float = 1) -> Tensor:
    """Compute (2, K) intersections and unions, in pixels divided by ``scale``.

    Args:
        masks: (K, a, b) bool.
        truth: (a, b) bool.
        valid: (a, b) bool; other pixels do not count.
        scale: pixels per unit of the result.
    """
    truth = truth & valid
    masks = masks & valid
    intersections = (masks & truth).flatten(1).sum(1)
    unions = (masks | truth).flatten(1).sum(1)
    return torch.stack([intersections, unions]).double() / scale
