"""Exchanges: the questions asked about a picture, and the answers that the LMM is given."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from flmm.data.sample import GroundedText
from flmm.head.prompt_templates import PromptTemplates

_SEPARATOR = "; "


class ReferringProtocol(StrEnum):
    """The way a picture's referring expressions are asked; captions are always asked whole."""

    TOGETHER = "together"
    """All in one answer: the paper's protocol."""
    ONE_BY_ONE = "one-by-one"
    """Each in the answer to its own question: LISA's protocol, and ``Grounder.segment``'s."""


@dataclass(frozen=True)
class Exchange:
    """A question, an answer that is given (not generated), and the phrases in it."""

    question: str
    answer: str | None
    """None when the phrases are words of the question."""
    spans: tuple[tuple[int, int], ...]
    """(start, end) of each phrase, in code points of the answer (or of the question)."""
    phrase_indices: tuple[tuple[int, int], ...]
    """(text, phrase) of each span: indices into the picture's texts and the text's phrases."""
    fully_annotated: bool
    """Whether all that can be grounded in the answer is a phrase: a keyword selector is trained on
    these answers only."""


def build_exchanges(
    texts: Sequence[GroundedText], templates: PromptTemplates, protocol: ReferringProtocol
) -> tuple[Exchange, ...]:
    """Return the exchanges for the texts of one picture.

    Captions answer their own question, or ``templates.caption``; expressions answer
    ``templates.segment`` one by one, or all of them ``templates.caption``; an instruction
    is a question whose own words are the phrases (section 1.8). Phrases that are blank, or that
    their caption does not say, are left out, and so are exchanges without a phrase.
    """
    exchanges: list[Exchange] = []
    expressions: list[tuple[int, GroundedText]] = []
    for index, text in enumerate(texts):
        if text.kind == "expression" and protocol is ReferringProtocol.TOGETHER:
            expressions.append((index, text))
        elif text.kind == "expression":
            exchanges.append(_expression_exchange(index, text, templates))
        else:
            exchanges.append(_text_exchange(index, text, templates))
    if expressions:
        exchanges.append(_combined_exchange(expressions, templates))
    return tuple(exchange for exchange in exchanges if exchange.spans)


def _text_exchange(text_index: int, text: GroundedText, templates: PromptTemplates) -> Exchange:
    """Return the exchange of a caption or an instruction."""
    # The adapter strips the text.
    stripped, offset = text.text.strip(), len(text.text) - len(text.text.lstrip())
    phrases = [
        (index, (max(phrase.start - offset, 0), min(phrase.end - offset, len(stripped))))
        for index, phrase in enumerate(text.phrases)
        if phrase.label is None and text.text[phrase.start : phrase.end].strip()
    ]
    spans = tuple(span for _, span in phrases)
    phrase_indices = tuple((text_index, index) for index, _ in phrases)
    if text.kind == "instruction":
        return Exchange(stripped, None, spans, phrase_indices, False)
    question = text.question or templates.caption
    return Exchange(question, stripped, spans, phrase_indices, True)


def _expression_exchange(
    text_index: int, text: GroundedText, templates: PromptTemplates
) -> Exchange:
    """Return the exchange of one expression, asked for as in ``Grounder.segment``."""
    expression = text.text.strip()
    if not expression:
        return Exchange("", None, (), (), False)
    question, answer = templates.build_segment_exchange(expression)
    if text.question is not None:
        question, answer = text.question, expression
    phrase_indices = tuple((text_index, index) for index in range(len(text.phrases)))
    spans = ((0, len(answer)),) * len(phrase_indices)
    return Exchange(question, answer, spans, phrase_indices, False)


def _combined_exchange(
    expressions: Sequence[tuple[int, GroundedText]], templates: PromptTemplates
) -> Exchange:
    """Return the exchange whose answer lists all expressions."""
    answer = ""
    spans: list[tuple[int, int]] = []
    phrase_indices: list[tuple[int, int]] = []
    for text_index, text in expressions:
        expression = text.text.strip()
        if not expression:
            continue
        answer += _SEPARATOR if answer else ""
        for index in range(len(text.phrases)):
            spans.append((len(answer), len(answer) + len(expression)))
            phrase_indices.append((text_index, index))
        answer += expression
    return Exchange(templates.caption, answer, tuple(spans), tuple(phrase_indices), False)
