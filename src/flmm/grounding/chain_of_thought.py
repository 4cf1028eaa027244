"""Visual chain of thought: locate a phrase, show the LMM its crop, answer (paper section 4.4).

Letters: ``H W`` picture size.
"""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from flmm.answers.answer import Answer
from flmm.answers.image_files import encode_png, save_image
from flmm.answers.json_types import ThoughtJson
from flmm.answers.notebook import build_image, build_titled_paragraph
from flmm.answers.phrase import Phrase
from flmm.answers.thought_figure import Paragraph, draw_thought
from flmm.attention.tracing import trace_texts
from flmm.errors import InputError
from flmm.grounding.chat_options import ChatOptions
from flmm.grounding.mask_options import DEFAULT_MASK_OPTIONS, MaskOptions
from flmm.grounding.phrase_extraction import PhraseSource
from flmm.grounding.pipeline import GenerationRequest, Pipeline
from flmm.lmm.base import LMMAdapter
from flmm.lmm.message import Message
from flmm.lmm.places import check_places
from flmm.pictures.geometry import square_box_around
from flmm.pictures.reading import PictureLike
from flmm.stopwatch import Stopwatch
from flmm.types import Box, Size
from flmm.user_input import check_text

LocateSource = Literal["answer", "question"]
"""Whose phrases are located: those of the LMM's first answer, or the question's own."""

CropMode = Literal["box", "mask", "random"]
"""What the second prompt shows: the mask's box, the box with all but the mask in grey, or, as a
control, a box of the same size at a random position."""

_GREY = 127


@dataclass(frozen=True)
class ThinkOptions:
    """The options of a visual chain of thought."""

    locate: LocateSource = "answer"
    """With "question", nothing is generated before the second prompt."""
    crop: CropMode = "box"
    margin: float = 0.25
    """Added on each side of the mask's box, in shares of its longer side; the box becomes a square
    as far as the picture reaches."""
    seed: int = 0
    """Of the random crop."""
    first_question: str | None = None
    """The first prompt's question, such as for an object's name; None for the question itself."""
    phrase_source: PhraseSource | None = None
    """What chooses the phrases; None for the selector in an answer (when the head has one), and for
    noun chunks in a question (each referring expression as one), since selectors are trained on
    answers alone."""

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
    """The two answers of a visual chain of thought, and the crop between them."""

    question: str
    options: ThinkOptions
    first: Answer
    """The LMM's first answer; where the question's own words were located, the question's text and
    phrases."""
    located: Phrase | None
    """The phrase of ``first`` with the smallest mask, since large regions need no closer look; None
    where no phrase has a mask."""
    box: Box
    """Box of the crop in pixels of the picture: all of it where nothing was located."""
    crop: Image.Image = field(repr=False)
    """RGB, as the LMM received it."""
    answer: Answer
    """The answer to the picture and the crop; its phrases are grounded in the whole picture."""

    @property
    def figure(self) -> Image.Image:
        """RGB: the picture with the box, the crop beside it, and the texts below."""
        located = [] if self.located is None else [self.located]
        first_title = "before" if self.options.locate == "answer" else "the question's own words"
        if self.located is None:
            first_title += " (nothing was located, so the whole picture was looked at again)"
        paragraphs = (
            [Paragraph("question", self.question)] if self.options.locate == "answer" else []
        )
        paragraphs.append(Paragraph(first_title, self.first.text, located))
        paragraphs.append(Paragraph("after a closer look", self.answer.text))
        return draw_thought(self.first.picture, self.crop, self.box, located, paragraphs)

    def save(self, path: str | Path) -> None:
        """Write the figure, in the format that the file name's suffix names.

        Raises:
            InputError: the suffix is unknown, or the file cannot be written.
        """
        save_image(self.figure, path)

    def to_dict(self) -> ThoughtJson:
        """Return the thought as JSON content."""
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

    def _repr_html_(self) -> str:
        texts = [("question", self.question)]
        if self.options.locate == "answer":
            texts.append(("before", self.first.text))
        texts.append(("located", "nothing" if self.located is None else self.located.text))
        texts.append(("after a closer look", self.answer.text))
        paragraphs = (build_titled_paragraph(title, text) for title, text in texts)
        return "".join(paragraphs) + build_image(self.figure, "the picture and its part, enlarged")


@torch.no_grad()
def think(
    pipeline: Pipeline,
    image: PictureLike,
    question: str,
    options: ThinkOptions,
    max_new_tokens: int,
    mask_options: MaskOptions,
) -> Thought:
    """See ``Grounder.think``."""
    request = prepare_locating(pipeline, image, question, options, max_new_tokens, mask_options)
    check_two_pictures(pipeline.adapter, pipeline.lmm_name)
    if options.locate == "answer":
        first = pipeline.run(request)
    else:
        first = ground_question(pipeline, request)
    located = find_smallest_phrase(first)
    crop, box = crop_to_phrase(request.picture, located, options)
    stopwatch = Stopwatch()
    with stopwatch.stage("picture"):
        prompt = pipeline.adapter.build_prompt([request.picture, crop], question)
    second_request = replace(
        request,
        prompt=prompt,
        phrase_extractor=pipeline.create_phrase_extractor(),
        stopwatch=stopwatch,
    )
    return Thought(question, options, first, located, box, crop, pipeline.run(second_request))


def prepare_locating(
    pipeline: Pipeline,
    image: PictureLike,
    question: str,
    options: ThinkOptions,
    max_new_tokens: int,
    mask_options: MaskOptions = DEFAULT_MASK_OPTIONS,
) -> GenerationRequest:
    """Prepare the first prompt; ``Pipeline.run`` or ``ground_question`` then grounds its phrases.

    Raises:
        InputError: the picture cannot be read, the question is empty or too long, or image tokens
            have no places.
    """
    check_places(pipeline.adapter)
    check_text("question", question)
    first_question = question
    if options.locate == "answer" and options.first_question is not None:
        first_question = options.first_question
    source = options.phrase_source
    if source is None and options.locate == "question":
        source = "noun_chunks"
    extractor = pipeline.create_phrase_extractor(source=source)
    chat_options = ChatOptions(max_new_tokens, mask_options=mask_options)
    return pipeline.prepare_request(image, first_question, extractor, chat_options)


def find_smallest_phrase(answer: Answer) -> Phrase | None:
    """Return the phrase with the smallest mask that is not empty; None without one."""
    candidates = [phrase for phrase in answer.phrases if phrase.area]
    return min(candidates, key=lambda phrase: phrase.area, default=None)


def crop_to_phrase(
    picture: Image.Image, phrase: Phrase | None, options: ThinkOptions
) -> tuple[Image.Image, Box]:
    """Return the crop around a phrase, and its box; None gives the whole picture.

    The box is a square as far as the picture reaches, since image processors crop or squeeze other
    shapes.
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
    """Return a box of the same size, each position equally likely."""
    random = np.random.default_rng(seed)
    width, height = box[2] - box[0], box[3] - box[1]
    left = int(random.integers(size[1] - width + 1))
    top = int(random.integers(size[0] - height + 1))
    return left, top, left + width, top + height


@torch.no_grad()
def ground_question(pipeline: Pipeline, request: GenerationRequest) -> Answer:
    """Ground the question's own phrases in the picture; nothing is generated."""
    stopwatch, prompt = request.stopwatch, request.prompt
    with stopwatch.stage("read"):
        (trace,) = trace_texts(pipeline.adapter, [prompt], part="question")
    with stopwatch.stage("phrases"):
        spans = request.phrase_extractor.extract(
            trace, prompt.question, prompt.question_offsets, "question"
        )
        traced_phrases = pipeline.mask_predictor.add_references(
            request.picture, [(span, trace) for span in spans]
        )
    phrases = pipeline.mask_predictor.predict(
        request.picture, traced_phrases, request.mask_options, stopwatch
    )
    return pipeline.build_answer(
        request.pictures, prompt.question, phrases, request.mask_options, stopwatch
    )


def check_two_pictures(adapter: LMMAdapter, lmm_name: str) -> None:
    """Check, before the first prompt runs, that the LMM accepts two pictures.

    Args:
        adapter: of the LMM.
        lmm_name: its name in the error message.

    Raises:
        InputError: the LMM cannot be shown two pictures.
    """
    try:
        picture = Image.new("RGB", (64, 64))
        adapter.render_chat([Message("user", "What is it?", (picture, picture))], None)
    except InputError as error:
        raise InputError(
            f"the LMM {lmm_name!r} cannot be shown a picture and a part of it at once, so it"
            f" cannot think; use chat, or another LMM ({error})"
        ) from error
