"""Which pictures the claims are measured on, and which choices are made on: never the same ones."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from flmm.data.readers.sticker_scenes import read_sticker_scenes
from flmm.data.sample import Sample
from flmm.data.sources import DataSource, StickersSource
from flmm.errors import InputError
from flmm.stickers.dataset import EVALUATION_SEED, VALIDATION_SEED

CALIBRATION_PICTURES = 60
_MAX_EXPRESSIONS = 6
_MAX_TRAINING_EXPRESSIONS = 3


@dataclass(frozen=True)
class ReportData:
    """Three sets of pictures, all different."""

    name: str
    measured: tuple[Sample, ...]
    calibration: tuple[Sample, ...]
    """On which the comparisons choose their best head, layer and level."""
    training: tuple[Sample, ...]
    """From which the small decoders of the ablations learn."""
    source: DataSource
    """What was read, as training's settings name it."""


def read_sticker_data(folder: Path, scenes: int, calibration: int, training: int) -> ReportData:
    """Scenes of the embedded world; measured and chosen on are ones that its model never saw.

    Of a scene's many expressions, a few are taken by chance, always the same ones.

    Args:
        folder: where they are drawn to.
        scenes, calibration, training: how many.

    Raises:
        InputError: the folder cannot be written.
    """

    def read(count: int, first: int, expressions: int = _MAX_EXPRESSIONS) -> tuple[Sample, ...]:
        samples = read_sticker_scenes(folder, count, first)
        return tuple(
            _limit_expressions(one, expressions, first + place) for place, one in enumerate(samples)
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
    """A benchmark's pictures, divided: the first ones to choose on, then to learn from, the rest.

    Args:
        source, base: what to read, and what its relative paths are relative to.
        pictures: how many to measure at most.
        calibration, training: how many.

    Raises:
        InputError: it cannot be read, or leaves none to measure.
    """
    samples = source.read(base)
    first = calibration + training
    if len(samples) <= first:
        raise InputError(
            f"data {source.name!r} has {len(samples)} pictures; the first {first} are there to"
            " choose and to learn on, so give more, or fewer of those"
        )
    return ReportData(
        source.name,
        tuple(samples[first : first + max_pictures]),
        tuple(samples[:calibration]),
        tuple(samples[calibration:first]),
        source,
    )


def _limit_expressions(sample: Sample, max_expressions: int, seed: int) -> Sample:
    """The captions, and some of the expressions."""
    texts = sample.texts
    others = [place for place, text in enumerate(texts) if text.kind != "caption"]
    chosen = np.random.default_rng(seed).permutation(others)[:max_expressions].tolist()
    return replace(
        sample,
        texts=tuple(
            text
            for place, text in enumerate(texts)
            if text.kind == "caption" or place in set(chosen)
        ),
    )


def find_text_kinds(samples: Sequence[Sample]) -> tuple[str, ...]:
    """The kinds of text that there are, in the order of ``KINDS``."""
    there = {text.kind for sample in samples for text in sample.texts}
    return tuple(kind for kind in TEXT_KINDS if kind in there)


TEXT_KINDS = {
    "caption": "all phrases of a caption in one text",
    "expression": "one referring expression at a time",
    "instruction": "what a question is about",
}
"""The kinds of text, and how the LMM is asked them."""
