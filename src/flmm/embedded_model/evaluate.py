"""Evaluation of the embedded model on scenes that training never used, in several processes."""

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

from flmm.embedded_model.evaluate_masks import (
    Calibration,
    MaskOverlaps,
    MaskScores,
    calibrate,
    compute_mask_scores,
    measure_masks,
    score_absent_expression,
)
from flmm.embedded_model.evaluate_text import (
    TextCounts,
    TextScores,
    compute_text_scores,
    count_text_results,
)
from flmm.embedded_model.evaluation_settings import DEFAULT_SETTING, EvaluationSetting
from flmm.embedded_model.protocols import TextProtocol, caption_protocol, expression_protocol
from flmm.head.checkpoint import load_head
from flmm.head.model import GroundingHead
from flmm.lmm.auto import load_lmm
from flmm.lmm.base import LMMAdapter
from flmm.progress import ProgressCallback
from flmm.stickers.dataset import EVALUATION_SEED, VALIDATION_SEED

CALIBRATION_SCENES = 60
PRESENCE_THRESHOLD = 0.5
"""The score from which on an expression counts as present."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class EvaluationReport:
    """The results of one setting."""

    name: str
    scenes: int
    has_stuff: bool
    words: TextScores
    captions: dict[str, MaskScores]
    references: dict[str, MaskScores]
    absent_refused: float | None
    """Share of the absent expressions with a score below `PRESENCE_THRESHOLD`; None on photographs,
    which may show anything."""


@dataclass(frozen=True)
class _SceneResult:
    """The results of one scene."""

    words: TextCounts
    captions: MaskOverlaps
    expressions: MaskOverlaps
    absent_score: float | None


@dataclass(frozen=True)
class _Calibrations:
    """The calibration of the training-free methods for each protocol."""

    captions: Calibration
    expressions: Calibration


@cache
def _load(folder: Path) -> tuple[LMMAdapter, GroundingHead]:
    return load_lmm(str(folder / "lmm")), load_head(folder / "head").eval()


def _calibrate(folder: Path, scenes: int, on_progress: ProgressCallback) -> _Calibrations:
    def calibrate_for(protocol: TextProtocol) -> Calibration:
        drawings = map(DEFAULT_SETTING.draw, range(VALIDATION_SEED, VALIDATION_SEED + scenes))
        reported = _with_progress(drawings, scenes, "choosing thresholds", on_progress)
        return calibrate(*_load(folder), reported, protocol)

    return _Calibrations(calibrate_for(caption_protocol), calibrate_for(expression_protocol))


def _with_progress(
    items: Iterable[Item], count: int, description: str, on_progress: ProgressCallback
) -> Iterator[Item]:
    """Yield the items; each is reported as done when the next is requested."""
    for done, item in enumerate(items, 1):
        yield item
        on_progress(done, count, description)


def _measure_scene(
    folder: Path, calibrations: _Calibrations, setting: EvaluationSetting, seed: int
) -> _SceneResult:
    adapter, head = _load(folder)
    drawing = setting.draw(seed)
    return _SceneResult(
        count_text_results(adapter, head, drawing, seed, has_stuff=setting.has_stuff),
        measure_masks(adapter, head, calibrations.captions, drawing, seed, caption_protocol),
        measure_masks(adapter, head, calibrations.expressions, drawing, seed, expression_protocol),
        score_absent_expression(adapter, head, drawing, seed) if setting.has_stuff else None,
    )


def _measure_pickled(
    folder: Path, calibrations: _Calibrations, setting: EvaluationSetting, seed: int
) -> bytes:
    # torch would send each tensor as an open file: too many for 1,000 scenes.
    return pickle.dumps(_measure_scene(folder, calibrations, setting, seed))


MapFunction = Callable[[Callable[[int], bytes], Sequence[int]], Iterable[bytes]]


@contextmanager
def _process_map(processes: int) -> Iterator[MapFunction]:
    """Yield a `map` over so many processes with one torch thread each; 1 means this process."""
    if processes == 1:
        yield map
        return
    # torch's threads do not survive a fork: the child would hang.
    with ProcessPoolExecutor(processes, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        yield pool.map


def measure(
    folder: Path,
    settings: Sequence[tuple[EvaluationSetting, int]],
    on_progress: ProgressCallback,
    calibration_scenes: int = CALIBRATION_SCENES,
    processes: int = 1,
) -> list[EvaluationReport]:
    """Measure the embedded model in each setting.

    Args:
        folder: the model's parts, `lmm` and `head`, as `flmm stickers build` writes them.
        settings: settings, each with its number of scenes.
        on_progress: called after each scene.
        calibration_scenes: number of other scenes, on which the training-free methods are
            calibrated.
        processes: number of processes that measure in parallel.

    Raises:
        InputError: a part is missing in the folder.
    """
    calibrations = _calibrate(folder, calibration_scenes, on_progress)
    reports = []
    with _process_map(processes) as map_scenes:
        for setting, scenes in settings:
            seeds = range(EVALUATION_SEED, EVALUATION_SEED + scenes)
            pickled = map_scenes(partial(_measure_pickled, folder, calibrations, setting), seeds)
            reported = _with_progress(pickled, scenes, setting.name, on_progress)
            parts: list[_SceneResult] = list(map(pickle.loads, reported))
            reports.append(_build_report(setting, parts))
    return reports


def _build_report(setting: EvaluationSetting, parts: Sequence[_SceneResult]) -> EvaluationReport:
    has_stuff = setting.has_stuff
    words: TextCounts = sum((part.words for part in parts), Counter())
    refused = [
        part.absent_score < PRESENCE_THRESHOLD for part in parts if part.absent_score is not None
    ]
    return EvaluationReport(
        setting.name,
        len(parts),
        has_stuff,
        compute_text_scores(words),
        compute_mask_scores(MaskOverlaps.concatenate([part.captions for part in parts]), has_stuff),
        compute_mask_scores(
            MaskOverlaps.concatenate([part.expressions for part in parts]), has_stuff
        ),
        sum(refused) / len(refused) if refused else None,
    )
