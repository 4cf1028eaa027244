"""Phrases that are in a drawn scene, that are not, and nonsense, to fit and measure scores on.

Each is either an expression to segment, in a prompt of its own, or a part of a caption that is
given. The words of nonsense that scores are measured on differ from those that they are fitted on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image

from flmm.data.exchanges import Exchange
from flmm.data.features import FeatureExtractor, PictureExchanges
from flmm.embedded_model.evaluation_settings import DEFAULT_SETTING
from flmm.embedded_model.nonsense import Use, choose, write_nonsense
from flmm.embedded_model.protocols import expression_protocol
from flmm.head.prompt_templates import PromptTemplates
from flmm.stickers.dataset import EVALUATION_SEED, VALIDATION_SEED
from flmm.stickers.draw import Drawing, mention_mask
from flmm.stickers.kinds import KINDS, STUFF
from flmm.stickers.language import Mention, caption_turn, kind_phrase, stuff_phrase
from flmm.stickers.questions import choose_absent_expression
from flmm.stickers.scene import PLACES, Scene
from flmm.train.dataset import TrainingExample

PhraseSet = Literal["present", "absent", "nonsense"]
PHRASE_SETS: tuple[PhraseSet, ...] = ("present", "absent", "nonsense")

_FIRST_SEEDS: dict[Use, int] = {"fit": VALIDATION_SEED, "measure": EVALUATION_SEED}
_SIZES = ("large", "small", "left", "right", "upper", "lower")


@dataclass(frozen=True)
class ScenePhrases:
    """One phrase of each of ``PHRASE_SETS`` about one scene."""

    texts: tuple[str, ...]
    example: TrainingExample
    """Their features and true masks, in the same order; nothing is where a phrase means nothing."""


@dataclass(frozen=True)
class _GivenPhrase:
    question: str
    answer: str
    start: int
    end: int
    mention: Mention | None
    """None for a phrase that means nothing in the scene."""


def extract_phrases(extractor: FeatureExtractor, use: Use, scenes: int) -> Iterator[ScenePhrases]:
    """Yield the phrases of so many scenes that training never saw.

    Phrases of every other scene are expressions, those of the others are parts of captions.

    Args:
        extractor: of the head.
        use: which scenes and which nonsense.
        scenes: their number.
    """
    templates = extractor.config.prompt_templates
    for number in range(scenes):
        seed = _FIRST_SEEDS[use] + number
        drawing = DEFAULT_SETTING.draw(seed)
        random = np.random.default_rng(seed)
        if number % 2:
            given = _caption_phrases(drawing, use, random, templates)
        else:
            given = _expressions(drawing, seed, use, random, templates)
        yield _extract(extractor, drawing, given)


def _extract(
    extractor: FeatureExtractor, drawing: Drawing, given: Sequence[_GivenPhrase]
) -> ScenePhrases:
    exchanges = tuple(
        Exchange(each.question, each.answer, ((each.start, each.end),), ((index, 0),), False)
        for index, each in enumerate(given)
    )
    picture = Image.fromarray(drawing.picture)
    (features,) = extractor.extract([PictureExchanges(picture, exchanges)])
    nothing = np.zeros(drawing.picture.shape[:2], dtype=np.bool_)
    masks = [
        nothing if each.mention is None else mention_mask(drawing, each.mention) for each in given
    ]
    true_masks = torch.from_numpy(np.stack(masks))
    return ScenePhrases(
        tuple(each.answer[each.start : each.end] for each in given),
        TrainingExample(features, true_masks, torch.zeros_like(true_masks)),
    )


def _expressions(
    drawing: Drawing, seed: int, use: Use, random: np.random.Generator, templates: PromptTemplates
) -> list[_GivenPhrase]:
    turns = expression_protocol(drawing, seed)
    present = turns[random.integers(len(turns))].turn
    expressions: list[tuple[str, Mention | None]] = [
        (present.answer, present.mentions[0]),
        (_absent_expression(drawing.scene, random), None),
        (write_nonsense(use, random), None),
    ]
    given = []
    for expression, mention in expressions:
        question, answer = templates.build_segment_exchange(expression[0].lower() + expression[1:])
        given.append(_GivenPhrase(question, answer, 0, len(answer), mention))
    return given


def _caption_phrases(
    drawing: Drawing, use: Use, random: np.random.Generator, templates: PromptTemplates
) -> list[_GivenPhrase]:
    """Return a phrase of the true caption, and others in the place of one of its phrases."""
    caption = caption_turn(drawing.scene, templates.caption)
    mentions = caption.mentions
    present = mentions[random.integers(len(mentions))]
    given = [_GivenPhrase(caption.question, caption.answer, present.start, present.end, present)]
    for phrase in (_absent_phrase(drawing.scene, random), write_nonsense(use, random)):
        replaced = mentions[random.integers(len(mentions))]
        answer = caption.answer[: replaced.start] + phrase + caption.answer[replaced.end :]
        end = replaced.start + len(phrase)
        given.append(_GivenPhrase(caption.question, answer, replaced.start, end, None))
    return given


def _absent_expression(scene: Scene, random: np.random.Generator) -> str:
    """Return an expression for something absent; half of them also say its place or size."""
    expression = choose_absent_expression(scene, random)
    chance = random.random()
    if chance < 0.5 or expression.removeprefix("the ") in STUFF:
        return expression
    if chance < 0.75:
        return f"{expression} {choose(choose(PLACES, random), random)}"
    if chance < 0.85:
        return f"the {choose(_SIZES, random)} {expression.removeprefix('the ')}"
    return f"{expression} next to the {choose(scene.kinds, random).name}"


def _absent_phrase(scene: Scene, random: np.random.Generator) -> str:
    """Return something absent as captions name it."""
    name = choose_absent_expression(scene, random).removeprefix("the ")
    if name in STUFF:
        return stuff_phrase(name)
    (kind,) = (kind for kind in KINDS if kind.name == name)
    return kind_phrase(kind, 1 if random.random() < 0.8 else 2)
