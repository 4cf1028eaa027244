"""Grounding of a text that is given, not generated: a caption of a person, model or data set."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from PIL import Image

from flmm.answers.answer import Answer
from flmm.attention.trace import Trace, TracedPhrase
from flmm.attention.tracing import trace_texts
from flmm.grounding.mask_options import MaskOptions
from flmm.grounding.phrase_extraction import PhraseExtractor, PhraseSource
from flmm.grounding.pipeline import Pipeline
from flmm.head.prompt_templates import PromptTemplates
from flmm.lmm.base import LMMAdapter
from flmm.lmm.prompt import Prompt
from flmm.pictures.reading import PictureLike, read_picture
from flmm.stopwatch import Stopwatch
from flmm.user_input import check_text


@torch.no_grad()
def ground(
    pipeline: Pipeline,
    image: PictureLike,
    text: str,
    phrases: Sequence[str] | None,
    question: str | None,
    phrase_source: PhraseSource | None,
    mask_options: MaskOptions,
) -> Answer:
    """See ``Grounder.ground``."""
    extractor = pipeline.create_phrase_extractor(phrases, phrase_source)
    check_text("text", text)
    if question is not None:
        check_text("question", question)
    stopwatch = Stopwatch()
    with stopwatch.stage("picture"):
        picture = read_picture(image)
        prompt = build_text_prompt(
            pipeline.adapter, pipeline.prompt_templates, picture, text, question
        )
    with stopwatch.stage("read"):
        traces = trace_texts(pipeline.adapter, [prompt])
    with stopwatch.stage("phrases"):
        text, traced_phrases = extract_traced_phrases(extractor, prompt, text, traces)
        with_references = pipeline.mask_predictor.add_references(picture, traced_phrases)
    masked = pipeline.mask_predictor.predict(picture, with_references, mask_options, stopwatch)
    return pipeline.build_answer([picture], text, masked, mask_options, stopwatch)


def build_text_prompt(
    adapter: LMMAdapter,
    templates: PromptTemplates,
    picture: Image.Image,
    text: str,
    question: str | None = None,
) -> Prompt:
    """Return the prompt in which the text is the LMM's answer.

    ``question`` is what the text answers; None for the templates' question for a
    caption. Training and evaluation ask for captions with the same prompt.
    """
    return adapter.build_prompt(picture, question or templates.caption, text)


def extract_traced_phrases(
    extractor: PhraseExtractor, prompt: Prompt, text: str, traces: Sequence[Trace]
) -> tuple[str, list[TracedPhrase]]:
    """Return the text, and the span of each of its phrases with the text's trace.

    Args:
        extractor: chooses the phrases.
        prompt: of ``build_text_prompt``, which strips the text's outer white space.
        text: as given; spans are in its code points.
        traces: the prompt's, alone.

    Raises:
        InputError: a given phrase is not in the text.
    """
    (trace,) = traces
    stripped = text.strip()
    offset = len(text) - len(text.lstrip())
    spans = extractor.extract(trace, stripped, prompt.answer_offsets)
    return text, [
        (replace(span, start=span.start + offset, end=span.end + offset), trace)
        for span in spans
        if span.tokens
    ]
