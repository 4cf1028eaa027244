"""The pictures that claims are measured on, and others for calibration and training."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from flmm.data.readers.sticker_scenes import read_sticker_scenes
from flmm.data.sample import Sample
from flmm.data.sources import DataSource, StickersSource
from flmm.errors import InputError
from flmm.stickers.dataset import EVALUATION_SEED, VALIDATION_SEED

_MAX_EXPRESSIONS = 6
_MAX_TRAINING_EXPRESSIONS = 3


@dataclass(frozen=True)
class ReportData:
    """Three sets of pictures, all different."""

    name: str
    measured: tuple[Sample, ...]
    calibration: tuple[Sample, ...]
    """For choosing heads, layers and thresholds."""
    training: tuple[Sample, ...]
    """For training the small heads of the ablations."""
    source: DataSource
    """The data source, for the training settings."""


def read_sticker_data(folder: Path, scenes: int, calibration: int, training: int) -> ReportData:
    """Read sticker scenes; the embedded model was not trained on those measured or calibrated on.

    A few expressions of each scene are kept, drawn with a fixed seed.

    Args:
        folder: the pictures are written there.
        scenes, calibration, training: numbers of pictures.

    Raises:
        InputError: the folder cannot be written.
    """

    def read(count: int, first: int, expressions: int = _MAX_EXPRESSIONS) -> tuple[Sample, ...]:
        samples = read_sticker_scenes(folder, count, first)
        return tuple(
            _limit_expressions(sample, expressions, seed)
            for seed, sample in enumerate(samples, first)
        )

    return ReportData(
        "sticker scenes",
        read(scenes, EVALUATION_SEED),
        read(calibration, VALIDATION_SEED),
        read(training, 0, _MAX_TRAINING_EXPRESSIONS),
        StickersSource(
            name="sticker scenes", folder=folder, scenes=max(training, 1), first_scene=0
        ),
    )


def read_source_data(
    source: DataSource, base: Path, max_pictures: int, calibration: int, training: int
) -> ReportData:
    """Read a data source; its first pictures are for calibration, the next for training.

    Args:
        source: the data source.
        base: the folder of its relative paths.
        max_pictures: at most so many are measured.
        calibration, training: numbers of pictures.

    Raises:
        InputError: it cannot be read, or leaves none to measure.
    """
    samples = source.read(base)
    first = calibration + training
    if len(samples) <= first:
        raise InputError(
            f"data {source.name!r} has {len(samples)} pictures; calibration and training take"
            f" the first {first}, which leaves none to measure; give more pictures, or lower"
            " --calibration or --training"
        )
    return ReportData(
        source.name,
        tuple(samples[first : first + max_pictures]),
        tuple(samples[:calibration]),
        tuple(samples[calibration:first]),
        source,
    )


def _limit_expressions(sample: Sample, max_expressions: int, seed: int) -> Sample:
    """Keep all captions, and at most ``max_expressions`` other texts."""
    texts = sample.texts
    others = [index for index, text in enumerate(texts) if text.kind != "caption"]
    kept = np.random.default_rng(seed).permutation(others)[:max_expressions].tolist()
    return replace(
        sample,
        texts=tuple(
            text for index, text in enumerate(texts) if text.kind == "caption" or index in kept
        ),
    )


def find_text_kinds(samples: Sequence[Sample]) -> tuple[str, ...]:
    """Return the kinds of text in the samples, in the order of ``TEXT_KINDS``."""
    present = {text.kind for sample in samples for text in sample.texts}
    return tuple(kind for kind in TEXT_KINDS if kind in present)


TEXT_KINDS = {
    "caption": "all phrases of a caption in one text",
    "expression": "one referring expression at a time",
    "instruction": "what a question is about",
}
"""Kinds of text, and how each is given to the LMM."""
