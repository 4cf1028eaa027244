"""Goes through pictures part by part, so that a run that was cut off goes on where it was."""

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from flmm.data.sample import Sample
from flmm.errors import InputError
from flmm.metrics import Overlap
from flmm.report.claim import Bench, digest_of
from flmm.report.data import kinds_of
from flmm.report.levels import (
    ChosenLevels,
    LevelChoice,
    attention_candidates,
    frame_of,
    level_overlaps,
    on_frame,
)
from flmm.report.overlaps import OverlapTable
from flmm.report.seeing import SeenPicture

_PICTURES_A_PART = 8

Candidates = Callable[[SeenPicture, int], Tensor]
"""Maps (K, a, b) in 0..1 of a picture's phrase, on ``frame_of`` the picture."""


def measure_parts(
    bench: Bench,
    what: str,
    samples: Sequence[Sample],
    measure: Callable[[SeenPicture], OverlapTable],
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
    folder = bench.work / f"{what.split()[0]}-{digest_of({'what': what, **bench.key})}"
    folder.mkdir(parents=True, exist_ok=True)
    tables: list[OverlapTable] = []
    begun = time.monotonic()
    made = 0
    for first in range(0, len(samples), _PICTURES_A_PART):
        numbers = range(first, min(first + _PICTURES_A_PART, len(samples)))
        file = folder / f"{first:06d}.safetensors"
        table = OverlapTable.load(file)
        if table is None:
            rows = [measure(seen) for seen in bench.eye.see(samples, numbers)]
            if not rows:
                continue
            table = OverlapTable.join(rows)
            table.save(file)
            made += len(numbers)
        tables.append(table)
        seconds = (time.monotonic() - begun) / max(made, 1) * (len(samples) - numbers.stop)
        bench.watch(numbers.stop, len(samples), f"{what.split()[0]}, {seconds:.0f} s left")
    if not tables:
        raise InputError(f"none of the {len(samples)} pictures can be read; check the data")
    return OverlapTable.join(tables)


def attention_maps(bench: Bench) -> Candidates:
    """The LMM's word-image attention: the mean of all, of each layer, and each head."""
    heads = bench.grounder.adapter.heads

    def candidates(seen: SeenPicture, phrase: int) -> Tensor:
        geometry = seen.features.geometry
        frame = frame_of(geometry.picture)
        return attention_candidates(seen.attention[phrase], heads, geometry, frame)

    return candidates


def calibrate(bench: Bench, what: str, candidates: Candidates) -> dict[str, ChosenLevels]:
    """The level that suits each candidate best, for each kind of text, on the calibration pictures.

    They are kept under the name ``what``.

    Raises:
        InputError: no picture can be read.
    """
    samples = bench.data.calibration
    folder = bench.work / f"levels-{digest_of({'what': what, **bench.key})}"
    kinds = kinds_of(samples)
    kept = {kind: ChosenLevels.load(folder / f"{kind}.safetensors") for kind in kinds}
    if kept and None not in kept.values():
        return {kind: levels for kind, levels in kept.items() if levels is not None}
    choices = {kind: LevelChoice() for kind in kinds}
    for number, seen in enumerate(bench.eye.see(samples, range(len(samples)))):
        frame = frame_of(seen.features.geometry.picture)
        masks, known = on_frame(seen.masks, frame), ~on_frame(seen.ignored, frame)
        for phrase, kind in enumerate(seen.kinds):
            overlap = level_overlaps(candidates(seen, phrase), masks[phrase], known[phrase])
            choices[kind].add(overlap)
        bench.watch(number + 1, len(samples), f"choosing levels of {what}")
    chosen = {kind: choice.choose() for kind, choice in choices.items()}
    found = {kind: levels for kind, levels in chosen.items() if levels is not None}
    if not found:
        raise InputError(
            f"none of the {len(samples)} calibration pictures can be read; check the data"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for kind, levels in found.items():
        levels.save(folder / f"{kind}.safetensors")
    return found


def cut(maps: Tensor, levels: Tensor) -> Tensor:
    """(K, a, b) maps and (K,) levels to (K, a, b) bool."""
    return maps > levels[:, None, None]


def overlaps_of(seen: SeenPicture, masks: Tensor) -> OverlapTable:
    """A picture's rows; (P, K, H, W) bool, K masks of each phrase."""
    both = [
        phrase_overlap(found, truth, ~ignored)
        for found, truth, ignored in zip(masks, seen.masks, seen.ignored, strict=True)
    ]
    shared, together = torch.stack(both, 1)
    return OverlapTable.of(seen, Overlap(shared, together))


def phrase_overlap(masks: Tensor, truth: Tensor, known: Tensor, scale: float = 1) -> Tensor:
    """(2, K) intersections and unions, in pixels ÷ ``scale``; (K, a, b), (a, b) and (a, b) bool."""
    truth = truth & known
    masks = masks & known
    shared = (masks & truth).flatten(1).sum(1)
    together = (masks | truth).flatten(1).sum(1)
    return torch.stack([shared, together]).double() / scale
