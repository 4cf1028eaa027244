"""Masks of an answer about several pictures: each phrase's in the picture that it is about."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from PIL import Image

from flmm.answers.phrase import Phrase
from flmm.attention.spans import make_phrase_span
from flmm.attention.trace import Trace, TracedPhrase
from flmm.attention.tracing import trace_texts
from flmm.grounding.mask_options import MaskOptions
from flmm.grounding.mask_predictor import MaskPredictor
from flmm.grounding.phrase_pictures import split_by_picture
from flmm.lmm.base import LMMAdapter
from flmm.stopwatch import Stopwatch
from flmm.types import PhraseSpan


def predict_in_several_pictures(
    adapter: LMMAdapter,
    predictor: MaskPredictor,
    pictures: Sequence[Image.Image],
    question: str,
    text: str,
    spans: Sequence[PhraseSpan],
    trace: Trace,
    options: MaskOptions,
    stopwatch: Stopwatch,
) -> tuple[Phrase, ...]:
    """Return an answer's phrases, each with its mask in one of the pictures.

    With scores that tell whether a phrase is in a picture (a head's calibration), the LMM reads the
    answer once with each picture alone, and a phrase's picture is that of its highest score: most
    attention within a conversation is on its first picture (docs/chat.md has figures). Without such
    scores it is the picture that the phrase attends to most.

    Args:
        adapter: the LMM; it may run.
        predictor: of the masks.
        pictures: those of the conversation in which phrases are grounded, its first ones.
        question: what the text answers.
        text: the answer.
        spans: its phrases.
        trace: of the answer, in the conversation.
        options: of the masks.
        stopwatch: measures the stages "read", "picture embedding" and "masks".
    """
    if not spans:
        return ()
    if predictor.has_calibrated_scores:
        with stopwatch.stage("read"):
            read = read_with_each_picture(adapter, pictures, question, text, spans)
        by_picture = dict(enumerate(read))
    else:
        own = trace.picture_attentions[: len(pictures)]
        by_picture = split_by_picture(spans, replace(trace, picture_attentions=own))
    found: dict[int, Sequence[Phrase]] = {}
    for index, traced_phrases in by_picture.items():
        with stopwatch.stage("read"):
            traced_phrases = predictor.add_references(pictures[index], traced_phrases)
        found[index] = predictor.predict(pictures[index], traced_phrases, options, stopwatch)
    return choose_pictures(spans, found)


def read_with_each_picture(
    adapter: LMMAdapter,
    pictures: Sequence[Image.Image],
    question: str,
    text: str,
    spans: Sequence[PhraseSpan],
) -> list[Sequence[TracedPhrase]]:
    """Return an answer's phrases for each picture, traced with that picture alone.

    A phrase is left out where a prompt with that answer has no tokens for it. The LMM runs.
    """
    prompts = [adapter.build_prompt(picture, question, text) for picture in pictures]
    traces = trace_texts(adapter, prompts)
    left_out = len(text) - len(text.lstrip())
    by_picture: list[Sequence[TracedPhrase]] = []
    for prompt, trace in zip(prompts, traces, strict=True):
        assert prompt.answer is not None
        assert prompt.answer_offsets is not None
        traced_phrases = []
        for span in spans:
            start, end = span.start - left_out, span.end - left_out
            read = make_phrase_span(prompt.answer, start, end, prompt.answer_offsets)
            if read.tokens:
                moved = replace(read, text=span.text, start=span.start, end=span.end)
                traced_phrases.append((moved, trace))
        by_picture.append(traced_phrases)
    return by_picture


def choose_pictures(
    spans: Sequence[PhraseSpan], found: Mapping[int, Sequence[Phrase]]
) -> tuple[Phrase, ...]:
    """Return each phrase as it was found with the highest score, with its picture's index.

    Args:
        spans: the phrases in the answer; their tokens and order are kept.
        found: the phrases that were predicted in a picture, by its index.
    """
    best: dict[tuple[int, int], Phrase] = {}
    for index, phrases in found.items():
        for phrase in phrases:
            key = phrase.start, phrase.end
            if key not in best or phrase.score > best[key].score:
                best[key] = replace(phrase, picture=index)
    return tuple(
        replace(best[key], tokens=span.tokens)
        for span in spans
        if (key := (span.start, span.end)) in best
    )
