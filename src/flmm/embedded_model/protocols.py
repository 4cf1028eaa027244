"""The texts that grounding is measured on: the paper's protocol and LISA's."""

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


@dataclass(frozen=True)
class SceneTurn:
    """A text about a drawn scene whose phrases are to be grounded."""

    drawing: Drawing
    turn: Turn


TextProtocol = Callable[[Drawing, int], list[SceneTurn]]
"""Gives the texts about a drawing; the number is the seed of random choices."""


def caption_protocol(drawing: Drawing, _: int) -> list[SceneTurn]:
    """Return the paper's protocol: all phrases of a true caption in one text."""
    return [SceneTurn(drawing, caption_turn(drawing.scene))]


def expression_protocol(drawing: Drawing, seed: int) -> list[SceneTurn]:
    """Return LISA's protocol: one referring expression a text, for each thing and band.

    Things that no expression means alone are left out.
    """
    scene = drawing.scene
    random = np.random.default_rng(seed)
    texts = [
        (expressions[int(random.integers(len(expressions)))], (index,), ())
        for index in range(len(scene.things))
        if (expressions := referring_expressions(scene, index))
    ]
    bands = [(f"the {band.name}", (), (index,)) for index, band in enumerate(scene.bands)]
    return [SceneTurn(drawing, expression_turn(*text)) for text in (*texts, *bands)]


def expression_turn(
    expression: str, things: tuple[int, ...] = (), bands: tuple[int, ...] = ()
) -> Turn:
    """Return a turn with the prompt of `Grounder.segment`; its answer is the expression."""
    answer = expression[0].upper() + expression[1:]
    mention = Mention(0, len(answer), things, bands)
    return Turn("refer", SEGMENT_QUESTION.format(phrase=expression), answer, (mention,))
