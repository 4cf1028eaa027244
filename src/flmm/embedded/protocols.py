"""Which texts a grounding model is measured on: both protocols in use, each under its name."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from flmm.stickers.draw import Drawing
from flmm.stickers.language import (
    SEGMENT_QUESTION,
    Mention,
    Turn,
    caption,
    referring_expressions,
)
from flmm.stickers.questions import absent_expression


@dataclass(frozen=True)
class Said:
    """One text about a scene whose phrases are to be grounded."""

    drawing: Drawing
    turn: Turn


Protocol = Callable[[Drawing, int], list[Said]]
"""The texts about a drawing; the number fixes what is chosen at random."""


def captions(drawing: Drawing, _: int) -> list[Said]:
    """The paper's protocol: all the phrases of a true caption in one text."""
    return [Said(drawing, caption(drawing.scene))]


def references(drawing: Drawing, seed: int) -> list[Said]:
    """LISA's protocol: one referring expression at a time, among distractors of its kind."""
    scene = drawing.scene
    random = np.random.default_rng(seed)
    texts = [
        (expressions[int(random.integers(len(expressions)))], (number,), ())
        for number in range(len(scene.things))
        if (expressions := referring_expressions(scene, number))
    ]
    bands = [(f"the {band.name}", (), (index,)) for index, band in enumerate(scene.bands)]
    return [Said(drawing, alone(*text)) for text in (*texts, *bands)]


def absences(drawing: Drawing, seed: int) -> list[Said]:
    """An expression that means nothing in the picture."""
    expression = absent_expression(drawing.scene, np.random.default_rng(seed))
    return [Said(drawing, alone(expression))]


def alone(expression: str, things: tuple[int, ...] = (), bands: tuple[int, ...] = ()) -> Turn:
    """A referring expression as `Grounder.segment` puts it, and what it means."""
    answer = expression[0].upper() + expression[1:]
    mention = Mention(0, len(answer), things, bands)
    return Turn("refer", SEGMENT_QUESTION.format(phrase=expression), answer, (mention,))
