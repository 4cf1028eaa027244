"""A conversation rendered with the chat template, and its tokens."""

import json
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Self

from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.tokenization_utils_tokenizers import PreTrainedTokenizerFast

from flmm.errors import InputError, shorten
from flmm.lmm.chat_templates import apply_chat_template
from flmm.lmm.message import Message
from flmm.lmm.prompt import Offsets

Span = tuple[int, int]

# A character for private use, which no template treats specially.
_QUESTION_MARKER = "\ue000"


@dataclass(frozen=True)
class RenderedChat:
    """A chat's text, with the spans of the question and the answer."""

    text: str
    question_span: Span
    answer_span: Span | None
    has_special_tokens: bool
    """Whether the tokenizer must not add special tokens: the text has its own."""

    def prepend(self, prefix: str) -> Self:
        """Return the chat with a text before it."""

        def shift(span: Span) -> Span:
            return span[0] + len(prefix), span[1] + len(prefix)

        return replace(
            self,
            text=prefix + self.text,
            question_span=shift(self.question_span),
            answer_span=None if self.answer_span is None else shift(self.answer_span),
        )


@dataclass(frozen=True)
class EncodedChat:
    """A chat's tokens, with the positions of the pictures, the question and the answer."""

    token_ids: list[int]
    picture_spans: tuple[Span, ...]
    """(first, last + 1) token of each picture's text."""
    question_start: int
    question_offsets: Offsets
    answer_start: int
    answer_offsets: Offsets | None


def render_chat(
    tokenizer: PreTrainedTokenizerBase,
    placeholder: str,
    messages: Sequence[Message],
    answer: str | None,
    name: str,
) -> RenderedChat:
    """Render the messages, the last of them the question, and the answer, if given.

    Uses the tokenizer's chat template, with ``placeholder`` for each picture; without a template,
    LLaVA 1.5's ``USER: <image>\n{question} ASSISTANT:``. The text ends with the answer.

    Raises:
        InputError: a text contains ``placeholder`` or another special token, or the template leaves
            out a picture or a text.
    """
    check_no_control_tokens(tokenizer, placeholder, messages, answer)
    question = messages[-1].text
    opening = apply_chat_template(tokenizer, placeholder, messages, None, name)
    # The question's text may also occur elsewhere in the chat, even in the template ("USER").
    marked = [*messages[:-1], replace(messages[-1], text=_QUESTION_MARKER)]
    question_start = apply_chat_template(tokenizer, placeholder, marked, None, name).find(
        _QUESTION_MARKER
    )
    if opening[question_start : question_start + len(question)] != question:
        question_start = opening.rfind(question)
    question_span = (question_start, question_start + len(question))
    bos_token = tokenizer.bos_token
    has_special_tokens = isinstance(bos_token, str) and opening.startswith(bos_token)
    if answer is None:
        return RenderedChat(opening, question_span, None, has_special_tokens)
    whole = apply_chat_template(tokenizer, placeholder, messages, answer, name)
    stem = opening.rstrip()
    start = whole.find(answer, len(stem))
    if start < 0 or not whole.startswith(stem) or whole[len(stem) : start].strip():
        # The template writes a given answer differently from the generation prompt (it may put
        # thoughts first); the model would generate the answer right after the generation prompt.
        separator = "" if opening != stem or answer[:1].isspace() else " "
        whole, start = opening + separator + answer, len(opening + separator)
    answer_span = (start, start + len(answer))
    text = whole[: start + len(answer)]
    return RenderedChat(text, question_span, answer_span, has_special_tokens)


def check_no_control_tokens(
    tokenizer: PreTrainedTokenizerBase,
    placeholder: str,
    messages: Sequence[Message],
    answer: str | None,
) -> None:
    """Raise InputError if a text contains a picture's placeholder or another special token.

    The tokenizer could read a special token's characters as text only in the whole chat, and then
    would not read those that the chat template writes either.
    """
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    earlier = [(f"{message.role}'s message", message.text) for message in messages[:-1]]
    for name, text in (*earlier, ("question", messages[-1].text), ("answer", answer or "")):
        for token in (placeholder, *special):
            if token in text:
                meaning = "stands for the picture" if token == placeholder else "controls the LMM"
                raise InputError(
                    f"the {name} {shorten(text)!r} contains {token!r}, which {meaning}; take it out"
                )


def encode_chat(
    tokenizer: PreTrainedTokenizerBase,
    chat: RenderedChat,
    placeholder: str,
    picture_texts: Sequence[str],
) -> EncodedChat:
    """Encode the chat, each placeholder replaced by its picture's text; the answer comes last."""
    parts = chat.text.split(placeholder)
    assert len(parts) == len(picture_texts) + 1
    text = parts[0]
    picture_spans: list[Span] = []
    # (position of a placeholder in the chat's text, code points that its replacement adds).
    shifts: list[tuple[int, int]] = []
    for index, (picture_text, part) in enumerate(zip(picture_texts, parts[1:], strict=True)):
        picture_spans.append((len(text), len(text) + len(picture_text)))
        position = sum(map(len, parts[: index + 1])) + len(placeholder) * index
        shifts.append((position, len(picture_text) - len(placeholder)))
        text += picture_text + part

    def shift(span: Span) -> Span:
        total = sum(amount for position, amount in shifts if position < span[0])
        return span[0] + total, span[1] + total

    encoding = tokenizer(
        text, add_special_tokens=not chat.has_special_tokens, return_offsets_mapping=True
    )
    token_ids: list[int] = list(encoding["input_ids"])
    offsets: list[Span] = list(encoding["offset_mapping"])
    _clear_inserted_spaces(tokenizer, token_ids, text, offsets)
    # Some tokenizers append an end token to every text, which would follow the answer.
    while offsets and offsets[-1] == (0, 0):
        token_ids.pop()
        offsets.pop()
    question_span = shift(chat.question_span)
    question = [i for i, span in enumerate(offsets) if _spans_overlap(span, question_span)]
    question_start = question[0] if question else len(token_ids)
    answer_start, answer_offsets = len(token_ids), None
    if chat.answer_span is not None:
        answer_span = shift(chat.answer_span)
        answer = [i for i, span in enumerate(offsets) if span[1] > answer_span[0]]
        answer_start = answer[0] if answer else len(token_ids)
        answer_offsets = tuple(_clip_span(offsets[i], answer_span) for i in answer)
    starts = [span[0] for span in offsets]
    return EncodedChat(
        token_ids,
        tuple(
            (bisect_left(starts, start), bisect_left(starts, end)) for start, end in picture_spans
        ),
        question_start,
        tuple(_clip_span(offsets[i], question_span) for i in question),
        answer_start,
        answer_offsets,
    )


def load_tokenizer(name: str, revision: str | None) -> PreTrainedTokenizerBase:
    """Load the checkpoint's tokenizer, with the chat template of an old chat_template.json.

    Raises:
        InputError: the checkpoint has no tokenizer.json.
    """
    from transformers.models.auto.tokenization_auto import AutoTokenizer
    from transformers.utils.hub import cached_file

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
    except ValueError as error:
        if "backend tokenizer" not in str(error):
            raise
        raise InputError(
            f"LMM {name!r} has no tokenizer.json, nor other files of which a tokenizer can be made;"
            " save its tokenizer there"
        ) from error
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    if not tokenizer.is_fast:
        raise InputError(
            f"LMM {name!r} has no tokenizer.json, so its words cannot be found in its tokens;"
            " save it once with a fast tokenizer"
        )
    if tokenizer.chat_template is None:
        legacy = cached_file(
            name,
            "chat_template.json",
            revision=revision,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if legacy is not None:
            settings = json.loads(Path(legacy).read_text(encoding="utf-8"))
            tokenizer.chat_template = settings["chat_template"]
    return tokenizer


def _clear_inserted_spaces(
    tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int], text: str, offsets: list[Span]
) -> None:
    """Give an empty span to each token that is white space which the text does not have.

    Llama 2's tokenizer puts a space before a text, as a token with the span of the text's first
    character.
    """
    for index, ((start, end), (next_start, _)) in enumerate(pairwise(offsets)):
        if start == next_start < end and not text[start:end].isspace():
            decoded = tokenizer.decode(token_ids[index], clean_up_tokenization_spaces=False)
            if isinstance(decoded, str) and not decoded.strip():
                offsets[index] = (start, start)


def _spans_overlap(first: Span, second: Span) -> bool:
    return first[0] < second[1] and second[0] < first[1]


def _clip_span(span: Span, outer: Span) -> Span:
    """Return ``span`` relative to the start of ``outer``, clipped to it."""
    length = outer[1] - outer[0]
    return min(max(span[0] - outer[0], 0), length), min(max(span[1] - outer[0], 0), length)
