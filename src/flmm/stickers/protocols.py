"""Which texts a grounding model is measured on: both protocols in use, each under its name."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from flmm.stickers.draw import Drawing, draw
from flmm.stickers.language import (
    SEGMENT_QUESTION,
    Mention,
    Turn,
    caption,
    referring_expressions,
)
from flmm.stickers.scene import Scene


@dataclass(frozen=True)
class Said:
    """One text about a scene whose phrases are to be grounded."""

    drawing: Drawing
    turn: Turn


def captions(scenes: Sequence[Scene]) -> Iterator[list[Said]]:
    """The paper's protocol: all the phrases of a true caption in one text."""
    for scene in scenes:
        yield [Said(draw(scene), caption(scene))]


def references(scenes: Sequence[Scene]) -> Iterator[list[Said]]:
    """LISA's protocol: one referring expression at a time, among distractors of its kind."""
    for index, scene in enumerate(scenes):
        random = np.random.default_rng(index)
        drawing = draw(scene)
        texts = [
            (expressions[int(random.integers(len(expressions)))], (number,), ())
            for number in range(len(scene.things))
            if (expressions := referring_expressions(scene, number))
        ]
        bands = [(f"the {band.name}", (), (i,)) for i, band in enumerate(scene.bands)]
        yield [Said(drawing, _alone(*text)) for text in (*texts, *bands)]


def _alone(expression: str, things: tuple[int, ...], bands: tuple[int, ...]) -> Turn:
    answer = expression[0].upper() + expression[1:]
    mention = Mention(0, len(answer), things, bands)
    return Turn("refer", SEGMENT_QUESTION.format(phrase=expression), answer, (mention,))
