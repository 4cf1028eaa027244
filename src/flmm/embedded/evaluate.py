"""Measures the embedded model on scenes whose seeds training never used, in several processes."""

import pickle
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import torch

from flmm.embedded.evaluate_masks import (
    Calibration,
    MaskScores,
    MaskTally,
    absent_score,
    calibrate,
    mask_scores,
    tally_masks,
)
from flmm.embedded.evaluate_words import WordCounts, WordScores, count_words, word_scores
from flmm.embedded.evaluation_settings import OWN, Setting
from flmm.embedded.protocols import Protocol, captions, references
from flmm.head.checkpoint import load_head
from flmm.head.model import GroundingHead
from flmm.lmm.auto import load_lmm
from flmm.lmm.base import LMMAdapter
from flmm.progress import Watch
from flmm.stickers.dataset import EVALUATION_SEED, VALIDATION_SEED

CALIBRATION_SCENES = 60
PRESENT = 0.5
"""A score from which on something is said to be there."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class SettingReport:
    """What was measured in one setting."""

    name: str
    scenes: int
    has_stuff: bool
    words: WordScores
    captions: dict[str, MaskScores]
    references: dict[str, MaskScores]
    absent_refused: float | None
    """Share of the expressions for something absent with a score below `PRESENT`, which are those
    with an empty mask; None on photographs, which may show anything."""


@dataclass(frozen=True)
class _Measured:
    """What one scene gave."""

    words: WordCounts
    captions: MaskTally
    references: MaskTally
    absent: float | None


@dataclass(frozen=True)
class _Calibrations:
    """What the training-free comparisons choose for each protocol."""

    captions: Calibration
    references: Calibration


@cache
def _load(folder: Path) -> tuple[LMMAdapter, GroundingHead]:
    return load_lmm(str(folder / "lmm")), load_head(folder / "head").eval()


def _calibrate(folder: Path, scenes: int, watch: Watch) -> _Calibrations:
    def choose(protocol: Protocol) -> Calibration:
        drawings = map(OWN.drawing, range(VALIDATION_SEED, VALIDATION_SEED + scenes))
        watched = _watched(drawings, scenes, "choosing thresholds", watch)
        return calibrate(*_load(folder), watched, protocol)

    return _Calibrations(choose(captions), choose(references))


def _watched(items: Iterable[Item], count: int, what: str, watch: Watch) -> Iterator[Item]:
    """The same items, each of which is shown as done when the next one is asked for."""
    for done, item in enumerate(items, 1):
        yield item
        watch(done, count, what)


def _measure(folder: Path, chosen: _Calibrations, setting: Setting, seed: int) -> _Measured:
    adapter, head = _load(folder)
    drawing = setting.drawing(seed)
    return _Measured(
        count_words(adapter, head, drawing, seed, has_stuff=setting.has_stuff),
        tally_masks(adapter, head, chosen.captions, drawing, seed, captions),
        tally_masks(adapter, head, chosen.references, drawing, seed, references),
        absent_score(adapter, head, drawing, seed) if setting.has_stuff else None,
    )


def _pickled(folder: Path, chosen: _Calibrations, setting: Setting, seed: int) -> bytes:
    # Left to torch, each of a scene's tensors would come as an open file: too many for a thousand.
    return pickle.dumps(_measure(folder, chosen, setting, seed))


Map = Callable[[Callable[[int], bytes], Sequence[int]], Iterable[bytes]]


@contextmanager
def _workers(processes: int) -> Iterator[Map]:
    """A `map` over that many processes, each with one of torch's threads; 1 is this process."""
    if processes == 1:
        yield map
        return
    # What torch started before a fork would hang in it.
    with ProcessPoolExecutor(processes, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        yield pool.map


def measure(
    folder: Path,
    settings: Sequence[tuple[Setting, int]],
    watch: Watch,
    calibration_scenes: int = CALIBRATION_SCENES,
    processes: int = 1,
) -> list[SettingReport]:
    """Measure the model in `folder` (with its parts `lmm` and `head`).

    Args:
        folder: as `flmm stickers build` leaves it.
        settings: each with how many scenes are drawn in it.
        watch: shown each scene.
        calibration_scenes: other scenes, on which the training-free comparisons choose.
        processes: how many measure side by side.

    Raises:
        InputError: a part is missing in the folder.
    """
    chosen = _calibrate(folder, calibration_scenes, watch)
    reports = []
    with _workers(processes) as each:
        for setting, scenes in settings:
            seeds = range(EVALUATION_SEED, EVALUATION_SEED + scenes)
            measured = each(partial(_pickled, folder, chosen, setting), seeds)
            found = _watched(measured, scenes, setting.name, watch)
            parts: list[_Measured] = list(map(pickle.loads, found))
            reports.append(_report(setting, parts))
    return reports


def _report(setting: Setting, parts: Sequence[_Measured]) -> SettingReport:
    has_stuff = setting.has_stuff
    words: WordCounts = sum((part.words for part in parts), Counter())
    refused = [part.absent < PRESENT for part in parts if part.absent is not None]
    return SettingReport(
        setting.name,
        len(parts),
        has_stuff,
        word_scores(words),
        mask_scores(MaskTally.join([part.captions for part in parts]), has_stuff),
        mask_scores(MaskTally.join([part.references for part in parts]), has_stuff),
        sum(refused) / len(refused) if refused else None,
    )
