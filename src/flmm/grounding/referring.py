"""Referring segmentation: each phrase in a prompt of its own, as the beginning of its answer."""

from collections.abc import Sequence
from functools import partial
from itertools import islice

import torch
from PIL import Image

from flmm.answers.answer import Answer
from flmm.attention.trace import Trace, TracedPhrase
from flmm.attention.tracing import trace_texts
from flmm.grounding.mask_options import MaskOptions
from flmm.grounding.pipeline import Pipeline
from flmm.head.prompt_templates import PromptTemplates
from flmm.lmm.base import LMMAdapter
from flmm.lmm.padding import batch_in_order
from flmm.lmm.prompt import Prompt
from flmm.pictures.reading import PictureLike, read_picture
from flmm.stopwatch import Stopwatch
from flmm.types import PhraseSpan
from flmm.user_input import check_phrases

_SEPARATOR = ", "
_SEQUENCES_PER_PASS = 8


@torch.no_grad()
def segment_together(
    pipeline: Pipeline,
    tasks: Sequence[tuple[PictureLike, Sequence[str]]],
    mask_options: MaskOptions,
) -> list[Answer]:
    """See ``Grounder.segment_together``; each answer's timings are those of all together."""
    phrases = [check_phrases(own) for _, own in tasks]
    adapter = pipeline.adapter
    stopwatch = Stopwatch()
    with stopwatch.stage("picture"):
        pictures = [read_picture(image) for image, _ in tasks]
        prompts = [
            prompt
            for picture, own in zip(pictures, phrases, strict=True)
            for prompt in build_referring_prompts(adapter, pipeline.prompt_templates, picture, own)
        ]
    answers = []
    with stopwatch.stage("read"):
        batch = partial(batch_in_order, size=_SEQUENCES_PER_PASS)
        traces = trace_texts(adapter, prompts, batch=batch)
    remaining = iter(traces)
    for picture, own in zip(pictures, phrases, strict=True):
        with stopwatch.stage("read"):
            text, traced_phrases = join_traced_phrases(own, list(islice(remaining, len(own))))
            with_references = pipeline.mask_predictor.add_references(picture, traced_phrases)
        masked = pipeline.mask_predictor.predict(picture, with_references, mask_options, stopwatch)
        answers.append(pipeline.build_answer([picture], text, masked, mask_options, stopwatch))
    return answers


def build_referring_prompts(
    adapter: LMMAdapter, templates: PromptTemplates, picture: Image.Image, phrases: Sequence[str]
) -> list[Prompt]:
    """Return one prompt for each phrase, with the phrase as the beginning of its answer."""
    return adapter.build_prompts(
        picture, [templates.build_segment_exchange(phrase) for phrase in phrases]
    )


def join_traced_phrases(
    phrases: Sequence[str], traces: Sequence[Trace]
) -> tuple[str, list[TracedPhrase]]:
    """Return the phrases as one text, and each phrase's span in it with its trace."""
    traced_phrases = []
    start = 0
    for phrase, trace in zip(phrases, traces, strict=True):
        tokens = tuple(range(len(trace.token_ids)))
        span = PhraseSpan(phrase, start, start + len(phrase), tokens)
        traced_phrases.append((span, trace))
        start += len(phrase) + len(_SEPARATOR)
    return _SEPARATOR.join(phrases), traced_phrases
