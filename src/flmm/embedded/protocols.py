"""Which texts a grounding model is measured on: both protocols in use, each under its name."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from flmm.stickers.draw import Drawing
from flmm.stickers.language import (
    SEGMENT_QUESTION,
    Mention,
    Turn,
    caption_turn,
    referring_expressions,
)
from flmm.stickers.questions import choose_absent_expression


@dataclass(frozen=True)
class SceneTurn:
    """One text about a scene whose phrases are to be grounded."""

    drawing: Drawing
    turn: Turn


TextProtocol = Callable[[Drawing, int], list[SceneTurn]]
"""The texts about a drawing; the number fixes what is chosen at random."""


def caption_protocol(drawing: Drawing, _: int) -> list[SceneTurn]:
    """The paper's protocol: all the phrases of a true caption in one text."""
    return [SceneTurn(drawing, caption_turn(drawing.scene))]


def expression_protocol(drawing: Drawing, seed: int) -> list[SceneTurn]:
    """LISA's protocol: one referring expression at a time, among distractors of its kind."""
    scene = drawing.scene
    random = np.random.default_rng(seed)
    texts = [
        (expressions[int(random.integers(len(expressions)))], (number,), ())
        for number in range(len(scene.things))
        if (expressions := referring_expressions(scene, number))
    ]
    bands = [(f"the {band.name}", (), (index,)) for index, band in enumerate(scene.bands)]
    return [SceneTurn(drawing, expression_turn(*text)) for text in (*texts, *bands)]


def absent_protocol(drawing: Drawing, seed: int) -> list[SceneTurn]:
    """An expression that means nothing in the picture."""
    expression = choose_absent_expression(drawing.scene, np.random.default_rng(seed))
    return [SceneTurn(drawing, expression_turn(expression))]


def expression_turn(
    expression: str, things: tuple[int, ...] = (), bands: tuple[int, ...] = ()
) -> Turn:
    """A referring expression as `Grounder.segment` puts it, and what it means."""
    answer = expression[0].upper() + expression[1:]
    mention = Mention(0, len(answer), things, bands)
    return Turn("refer", SEGMENT_QUESTION.format(phrase=expression), answer, (mention,))
