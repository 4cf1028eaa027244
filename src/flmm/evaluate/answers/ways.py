"""Ways to ask a question: plainly, or with a closer look at a part of the picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from PIL import Image

from flmm.answers.answer import Answer
from flmm.answers.phrase import Phrase
from flmm.answers.run_lengths import encode_rle
from flmm.attention.batched_tracing import trace_generation_batch
from flmm.attention.generation_step import GenerationStep
from flmm.attention.trace import Trace
from flmm.attention.tracing import limit_new_tokens
from flmm.data.sample import Mask
from flmm.grounding.chain_of_thought import (
    CropMode,
    LocateSource,
    ThinkOptions,
    crop_to_phrase,
    find_smallest_phrase,
    ground_question,
    prepare_locating,
)
from flmm.grounding.pipeline import Pipeline
from flmm.lmm.base import LMMAdapter
from flmm.lmm.prompt import Prompt
from flmm.lmm.sampling import SamplingParams
from flmm.pictures.geometry import mask_box
from flmm.types import Box

RegionSource = Literal["answer", "question", "truth"]
"""Where the mask to crop around is from: a ``LocateSource``, or the true mask."""
LOCATE_SOURCES: tuple[LocateSource, ...] = ("answer", "question")

MAX_NEW_TOKENS = 64
"""Each answer has at most so many tokens."""
_MAX_TOKENS_PER_BATCH = 16_384
"""Of prompts that are answered in one batch; the cache of a 7B LMM takes half a megabyte each."""


@dataclass(frozen=True)
class CloserLook:
    """What is shown beside the picture."""

    locate: RegionSource
    crop: CropMode

    @property
    def label(self) -> str:
        """Its name in tables."""
        return f"{_REGION_LABELS[self.locate]}, {_CROP_LABELS[self.crop]}"


_REGION_LABELS: Mapping[RegionSource, str] = {
    "answer": "located from the answer",
    "question": "located from the question",
    "truth": "true region",
}
_CROP_LABELS: Mapping[CropMode, str] = {"box": "box", "mask": "mask", "random": "random box"}
PLAIN_LABEL = "plain"
"""The name in tables of the question about the picture alone."""

CLOSER_LOOKS: tuple[CloserLook, ...] = (
    CloserLook("answer", "box"),
    CloserLook("answer", "mask"),
    CloserLook("answer", "random"),
    CloserLook("question", "box"),
    CloserLook("question", "mask"),
    CloserLook("question", "random"),
    CloserLook("truth", "box"),
    CloserLook("truth", "mask"),
)
"""In the order of tables. A random box has the size of the box that was located."""


@dataclass(frozen=True)
class Question:
    """A question about a picture, and the region that it is about."""

    text: str
    """What the first answer and the question's own phrases are located from."""
    second_text: str
    """What is asked plainly and with a closer look: the text, such as with a wish for brevity."""
    region: Phrase
    """The true region."""
    seed: int
    """Of its random boxes."""


@dataclass(frozen=True, eq=False)
class SecondAnswer:
    """What was located, what was shown of it, and what the LMM then said."""

    located: Phrase | None
    box: Box
    text: str


@dataclass(frozen=True, eq=False)
class WaysOfAnswering:
    """The answers to one question."""

    first: Answer
    """To ``Question.text``, grounded; what the answer's phrase is located from."""
    plain: str
    """To ``Question.second_text``, about the picture alone."""
    closer: dict[CloserLook, SecondAnswer]


def true_region(text: str, start: int, end: int, mask: Mask) -> Phrase:
    """Return a true mask, which is not empty, as a located phrase."""
    box = mask_box(torch.from_numpy(mask))
    assert box is not None, "regions of data sets are not empty"
    return Phrase(text, start, end, (), encode_rle(mask), box, 1.0)


def answer_in_every_way(
    pipeline: Pipeline,
    picture: Image.Image,
    questions: Sequence[Question],
    closer_looks: Sequence[CloserLook] = CLOSER_LOOKS,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> list[WaysOfAnswering]:
    """Answer each question about a picture plainly and with every closer look.

    What is located, cropped and asked is that of ``Grounder.think``, but each region is located
    once for all its crops, and answers are generated in batches. Where nothing is located, the
    whole picture is shown again.

    Raises:
        InputError: a question is too long for the LMM, or contains its placeholder for pictures.
    """
    firsts = pipeline.run_batch(
        [
            prepare_locating(pipeline, picture, question.text, ThinkOptions(), max_new_tokens)
            for question in questions
        ]
    )
    pictures: list[Sequence[Image.Image]] = []
    texts: list[str] = []
    looks: list[dict[CloserLook, tuple[Phrase | None, Box]]] = []
    for question, first in zip(questions, firsts, strict=True):
        regions = _locate(pipeline, picture, question, first, max_new_tokens)
        pictures.append([picture])
        texts.append(question.second_text)
        looks.append({})
        for look in closer_looks:
            region = regions[look.locate]
            options = ThinkOptions(crop=look.crop, seed=question.seed)
            crop, box = crop_to_phrase(picture, region, options)
            pictures.append([picture, crop])
            texts.append(question.second_text)
            looks[-1][look] = region, box
    said = iter(_generate(pipeline.adapter, pictures, texts, max_new_tokens))
    return [
        WaysOfAnswering(
            first,
            next(said),
            {look: SecondAnswer(*shown, next(said)) for look, shown in own_looks.items()},
        )
        for first, own_looks in zip(firsts, looks, strict=True)
    ]


def _locate(
    pipeline: Pipeline,
    picture: Image.Image,
    question: Question,
    first: Answer,
    max_new_tokens: int,
) -> dict[RegionSource, Phrase | None]:
    request = prepare_locating(
        pipeline, picture, question.text, ThinkOptions("question"), max_new_tokens
    )
    return {
        "answer": find_smallest_phrase(first),
        "question": find_smallest_phrase(ground_question(pipeline, request)),
        "truth": question.region,
    }


class _TextListener:
    """A ``GenerationListener`` that keeps the answer's text."""

    sampling_params = SamplingParams()
    wants_trace = False

    def __init__(self, adapter: LMMAdapter, prompt: Prompt, max_new_tokens: int) -> None:
        self._adapter = adapter
        self.prompt = prompt
        self.max_new_tokens = limit_new_tokens(adapter, prompt, max_new_tokens)
        self.text = ""

    def on_step(self, _: GenerationStep) -> bool:
        return True

    def on_end(self, token_ids: torch.Tensor, _trace: Trace | None) -> None:
        self.text = self._adapter.decode(token_ids)


def _generate(
    adapter: LMMAdapter,
    pictures: Sequence[Sequence[Image.Image]],
    texts: Sequence[str],
    max_new_tokens: int,
) -> list[str]:
    """Return the answer to each text about its pictures, generated in batches."""
    listeners = [
        _TextListener(adapter, adapter.build_prompt(own, text), max_new_tokens)
        for own, text in zip(pictures, texts, strict=True)
    ]
    longest = max(listener.prompt.length for listener in listeners)
    batch_size = max(_MAX_TOKENS_PER_BATCH // (longest + max_new_tokens), 1)
    for start in range(0, len(listeners), batch_size):
        trace_generation_batch(adapter, listeners[start : start + batch_size])
    return [listener.text for listener in listeners]
