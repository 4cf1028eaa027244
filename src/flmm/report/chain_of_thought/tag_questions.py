"""Questions about numbers on tags that are too small for the LMM to read in the whole picture."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flmm.stickers.dataset import EVALUATION_SEED
from flmm.stickers.draw import Drawing, draw, mention_mask
from flmm.stickers.language import NUMBER_WORDS, Turn
from flmm.stickers.questions import ask_tag_number
from flmm.stickers.scene import generate_scene

_NUMBER_WORDS = NUMBER_WORDS[1:10]
_DIGITS_PATTERN = re.compile(r"\b\d+\b")
_WORD_PATTERN = re.compile(rf"\b(?:{'|'.join(_NUMBER_WORDS)})\b")


@dataclass(frozen=True)
class TagQuestion:
    """A question about the number on one of the scene's things."""

    drawing: Drawing
    turn: Turn

    @property
    def picture(self) -> Image.Image:
        """The scene's picture, RGB."""
        return Image.fromarray(self.drawing.picture)

    @property
    def number(self) -> int:
        """The right answer."""
        (thing,) = self.turn.mentions[0].things
        number = self.drawing.scene.things[thing].tag_number
        assert number is not None
        return number

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(H, W) bool, at the picture's size: the thing that the question is about."""
        return mention_mask(self.drawing, self.turn.mentions[0])


def build_tag_questions(num_questions: int, first_seed: int = EVALUATION_SEED) -> list[TagQuestion]:
    """Build one question a scene, deterministically, for scenes from ``first_seed`` on.

    Scenes without a tagged thing that an expression can identify are skipped.
    """

    def generate() -> Iterator[TagQuestion]:
        for seed in count(first_seed):
            scene = generate_scene(seed, tagged=True)
            turn = ask_tag_number(scene, np.random.default_rng(seed))
            if turn is not None:
                yield TagQuestion(draw(scene), turn)

    return list(islice(generate(), num_questions))


def parse_number(answer: str) -> int | None:
    """Return the last number in an answer, in digits or else in words; None without one."""
    digits: list[str] = _DIGITS_PATTERN.findall(answer)
    if digits:
        return int(digits[-1])
    words: list[str] = _WORD_PATTERN.findall(answer.lower())
    return 1 + _NUMBER_WORDS.index(words[-1]) if words else None
