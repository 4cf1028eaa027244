"""Visual chain of thought: locate what matters, look at it closer, answer (paper section 4.4).

Letters: ``H W`` picture size.
"""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from flmm.answers.answer import Answer, Phrase, encode_png, save_image
from flmm.answers.json_types import ThoughtJson
from flmm.answers.thought_figure import Paragraph, draw_thought
from flmm.attention.tracing import trace_texts
from flmm.errors import InputError
from flmm.grounding.phrase_extraction import PhraseSource
from flmm.grounding.pipeline import GenerationRequest, Pipeline
from flmm.lmm.base import LMMAdapter
from flmm.lmm.prompt import Message
from flmm.pictures.geometry import square_box_around
from flmm.pictures.reading import PictureLike
from flmm.stopwatch import Stopwatch
from flmm.types import Box, Size
from flmm.user_input import check_text

LocateSource = Literal["answer", "question"]
"""Whose words say what matters: those of the model's first answer, or the question's own."""

CropMode = Literal["box", "mask", "random"]
"""What is looked at again: the box, the box with all but the mask in grey, or, as a control, a box
of the same size anywhere."""

_GREY = 127


@dataclass(frozen=True)
class ThinkOptions:
    """How to think."""

    locate: LocateSource = "answer"
    crop: CropMode = "box"
    margin: float = 0.25
    """Of the mask's box, added on each side."""
    seed: int = 0
    """Of the random crop."""
    first_question: str | None = None
    """What the first pass asks, such as for the name of what matters; None for the question."""
    phrase_source: PhraseSource | None = None
    """Who chooses words; None for the selector in an answer (when the head has one), and for noun
    chunks in a question (what it names, each referring expression as one), for selectors learn
    from answers alone."""

    def __post_init__(self) -> None:
        if self.locate not in ("answer", "question"):
            raise InputError(f"locate is {self.locate!r}; choose 'answer' or 'question'")
        if self.crop not in ("box", "mask", "random"):
            raise InputError(f"crop is {self.crop!r}; choose 'box', 'mask' or 'random'")
        if not (math.isfinite(self.margin) and self.margin >= 0):
            raise InputError(f"margin is {self.margin}; give 0 or more, such as 0.25")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}; give 0 or more")


@dataclass(frozen=True, eq=False)
class Thought:
    """What was said at first, where it led, and what was said after a closer look."""

    question: str
    options: ThinkOptions
    first: Answer
    """The model's first answer; where the question's own words were located, the question as if
    it were an answer."""
    located: Phrase | None
    """Of ``first``'s phrases the one with the smallest mask, for what is large is seen well
    without a closer look; None where none of them was found."""
    box: Box
    """What was looked at again, in pixels of the picture: all of it where nothing was located."""
    crop: Image.Image = field(repr=False)
    """RGB: that part, as the model was given it."""
    answer: Answer
    """What the model said with both before it; its phrases are grounded in the whole picture."""

    @property
    def figure(self) -> Image.Image:
        """RGB: the picture with the box, its part beside it, and what was asked and said."""
        located = [] if self.located is None else [self.located]
        first = "before" if self.options.locate == "answer" else "the question's own words"
        if self.located is None:
            first += " (nothing was located, so the whole picture was looked at again)"
        paragraphs = (
            [Paragraph("question", self.question)] if self.options.locate == "answer" else []
        )
        paragraphs.append(Paragraph(first, self.first.text, located))
        paragraphs.append(Paragraph("after a closer look", self.answer.text))
        return draw_thought(self.first.picture, self.crop, self.box, located, paragraphs)

    def save(self, path: str | Path) -> None:
        """Writes the figure, in the format that the file name's ending says.

        Raises:
            InputError: the ending is unknown, or the file cannot be written.
        """
        save_image(self.figure, path)

    def to_dict(self) -> ThoughtJson:
        """The thought as JSON content."""
        return {
            "question": self.question,
            "locate": self.options.locate,
            "crop": self.options.crop,
            "box": list(self.box),
            "located": None if self.located is None else self.located.to_dict(),
            "first": self.first.to_dict(),
            "answer": self.answer.to_dict(),
        }

    def _repr_png_(self) -> bytes:
        return encode_png(self.figure)


@torch.no_grad()
def think(
    pipeline: Pipeline,
    image: PictureLike,
    question: str,
    options: ThinkOptions,
    max_new_tokens: int,
    refine: bool,
) -> Thought:
    """See ``Grounder.think``."""
    check_text("question", question)
    wanted = question
    if options.locate == "answer" and options.first_question is not None:
        wanted = options.first_question
    source = options.phrase_source
    if source is None and options.locate == "question":
        source = "noun_chunks"
    choice = pipeline.create_phrase_extractor(source=source)
    asked = pipeline.prepare_request(image, wanted, choice, max_new_tokens, refine)
    check_two_pictures(pipeline.adapter, pipeline.lmm_name, asked.picture, question)
    first = pipeline.run(asked) if options.locate == "answer" else _ground_question(pipeline, asked)
    found = [phrase for phrase in first.phrases if phrase.area]
    located = min(found, key=lambda phrase: phrase.area, default=None)
    crop, box = crop_to_phrase(asked.picture, located, options)
    watch = Stopwatch()
    with watch.stage("picture"):
        prompt = pipeline.adapter.build_prompt([asked.picture, crop], question)
    again = replace(
        asked, prompt=prompt, phrase_extractor=pipeline.create_phrase_extractor(), stopwatch=watch
    )
    return Thought(question, options, first, located, box, crop, pipeline.run(again))


def crop_to_phrase(
    picture: Image.Image, phrase: Phrase | None, options: ThinkOptions
) -> tuple[Image.Image, Box]:
    """The part of a picture that deserves a closer look, and where it is.

    A square as far as the picture reaches, for image processors cut or squeeze what is not; the
    whole picture where nothing was located.
    """
    size = (picture.height, picture.width)
    if phrase is None:
        return picture.copy(), (0, 0, *picture.size)
    box = square_box_around(phrase.box, options.margin, size)
    if options.crop == "random":
        box = _draw_random_box(box, size, options.seed)
    pixels = np.array(picture)
    if options.crop == "mask":
        pixels[~phrase.mask] = _GREY
    x0, y0, x1, y1 = box
    return Image.fromarray(pixels[y0:y1, x0:x1]), box


def _draw_random_box(box: Box, size: Size, seed: int) -> Box:
    """A box of the same size, each place equally likely."""
    random = np.random.default_rng(seed)
    width, height = box[2] - box[0], box[3] - box[1]
    left = int(random.integers(size[1] - width + 1))
    top = int(random.integers(size[0] - height + 1))
    return left, top, left + width, top + height


def _ground_question(pipeline: Pipeline, request: GenerationRequest) -> Answer:
    """The question's own phrases in the picture; nothing is said."""
    watch, prompt = request.stopwatch, request.prompt
    with watch.stage("read"):
        (trace,) = trace_texts(pipeline.adapter, [prompt], part="question")
    with watch.stage("phrases"):
        spans = request.phrase_extractor.extract(
            trace, prompt.question, prompt.question_offsets, "question"
        )
    said = [(span, trace) for span in spans]
    found = pipeline.mask_predictor.predict(request.picture, said, request.refine, watch)
    return pipeline.build_answer(request.picture, prompt.question, found, watch)


def check_two_pictures(
    adapter: LMMAdapter, lmm_name: str, picture: Image.Image, question: str
) -> None:
    """Before the first pass, that the second can be asked.

    Args:
        adapter: of the LMM.
        lmm: its name.
        picture: any.
        question: any.

    Raises:
        InputError: the LMM cannot be shown two pictures.
    """
    try:
        adapter.render_chat([Message("user", question, (picture, picture))], None)
    except InputError as error:
        raise InputError(
            f"the LMM {lmm_name!r} cannot be shown a picture and a part of it at once, so it"
            f" cannot think; use chat, or another LMM ({error})"
        ) from error
