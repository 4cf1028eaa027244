"""How the texts about a picture are put to the LMM: questions, and answers put in its mouth."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from flmm.data.sample import GroundedText
from flmm.head.model import HeadConfig
from flmm.head.prompts import DEFAULT_CAPTION_PROMPT, build_segment_exchange

_SEPARATOR = "; "


class ReferringProtocol(StrEnum):
    """How a picture's referring expressions are asked; captions are always asked whole."""

    TOGETHER = "together"
    """All in one answer: the paper's."""
    ONE_BY_ONE = "one-by-one"
    """Each in an answer of its own, after its own question: LISA's, and ``Grounder.segment``'s."""


@dataclass(frozen=True)
class Exchange:
    """A question with the answer that the LMM is made to give, and the phrases in it."""

    question: str
    answer: str | None
    """None when the phrases are words of the question."""
    spans: tuple[tuple[int, int], ...]
    """(start, end) of each phrase, in code points of the answer (or of the question)."""
    phrase_indices: tuple[tuple[int, int], ...]
    """Whose they are: (which of the picture's texts, which of its phrases)."""
    fully_annotated: bool
    """Whether all that can be grounded in the answer is a phrase, so that a keyword selector may
    learn from it."""


def build_exchanges(
    texts: Sequence[GroundedText], config: HeadConfig, protocol: ReferringProtocol
) -> tuple[Exchange, ...]:
    """What the LMM is asked for the texts of one picture.

    Captions answer their own question, or ``config.caption_prompt``; expressions answer
    ``config.segment_prompt`` one by one, or all of them ``config.caption_prompt``; an instruction
    is a question whose own words are looked at (section 1.8). Phrases of nothing but blanks are
    left out, and with them exchanges without a phrase.
    """
    made: list[Exchange] = []
    expressions: list[tuple[int, GroundedText]] = []
    for index, text in enumerate(texts):
        if text.kind == "expression" and protocol is ReferringProtocol.TOGETHER:
            expressions.append((index, text))
        elif text.kind == "expression":
            made.append(_expression_exchange(index, text, config))
        else:
            made.append(_text_exchange(index, text, config))
    if expressions:
        made.append(_combined_exchange(expressions, config))
    return tuple(exchange for exchange in made if exchange.spans)


def _text_exchange(text_index: int, text: GroundedText, config: HeadConfig) -> Exchange:
    """A caption or an instruction as it stands."""
    # The adapter takes outer blanks off.
    said, offset = text.text.strip(), len(text.text) - len(text.text.lstrip())
    phrases = [
        (number, (max(phrase.start - offset, 0), min(phrase.end - offset, len(said))))
        for number, phrase in enumerate(text.phrases)
        if text.text[phrase.start : phrase.end].strip()
    ]
    spans = tuple(span for _, span in phrases)
    owners = tuple((text_index, number) for number, _ in phrases)
    if text.kind == "instruction":
        return Exchange(said, None, spans, owners, False)
    question = text.question or config.caption_prompt or DEFAULT_CAPTION_PROMPT
    return Exchange(question, said, spans, owners, True)


def _expression_exchange(text_index: int, text: GroundedText, config: HeadConfig) -> Exchange:
    """One expression, asked for as ``Grounder.segment`` does."""
    said = text.text.strip()
    if not said:
        return Exchange("", None, (), (), False)
    question, answer = build_segment_exchange(said, config)
    if text.question is not None:
        question, answer = text.question, said
    owners = tuple((text_index, number) for number in range(len(text.phrases)))
    return Exchange(question, answer, ((0, len(answer)),) * len(owners), owners, False)


def _combined_exchange(
    expressions: Sequence[tuple[int, GroundedText]], config: HeadConfig
) -> Exchange:
    """All expressions in one answer, one after the other."""
    answer = ""
    spans: list[tuple[int, int]] = []
    owners: list[tuple[int, int]] = []
    for index, text in expressions:
        said = text.text.strip()
        if not said:
            continue
        answer += _SEPARATOR if answer else ""
        for number in range(len(text.phrases)):
            spans.append((len(answer), len(answer) + len(said)))
            owners.append((index, number))
        answer += said
    question = config.caption_prompt or DEFAULT_CAPTION_PROMPT
    return Exchange(question, answer, tuple(spans), tuple(owners), False)
