"""A conversation as the chat text that the model was trained on, and as tokens."""

import json
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from jinja2 import TemplateError
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from flmm.errors import InputError
from flmm.lmm.prompt import Message, Offsets

Span = tuple[int, int]

# A letter for private use, which no template treats in any way of its own.
_QUESTION_MARKER = "\ue000"


@dataclass(frozen=True)
class RenderedChat:
    """The chat's text, and where in it the question and the answer stand."""

    text: str
    question_span: Span
    answer_span: Span | None
    has_special_tokens: bool
    """Whether the text begins with the tokenizer's own first token, or shall not."""


@dataclass(frozen=True)
class EncodedChat:
    """The chat's tokens, and which of them are the question and the answer."""

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
    """The conversation's text up to and with the answer to its last message, the question.

    Uses the tokenizer's chat template, with ``placeholder`` for each picture; without one, LLaVA
    1.5's ``USER: <image>\n{question} ASSISTANT:``.

    Raises:
        InputError: a text contains ``placeholder``, or the template shows no picture or question.
    """
    check_no_placeholder(placeholder, messages, answer)
    question = messages[-1].text
    opening = _apply_chat_template(tokenizer, placeholder, messages, None, name)
    # The question may also be said elsewhere, or be a word of the template's own ("USER").
    marked = [*messages[:-1], replace(messages[-1], text=_QUESTION_MARKER)]
    question_start = _apply_chat_template(tokenizer, placeholder, marked, None, name).find(
        _QUESTION_MARKER
    )
    if opening[question_start : question_start + len(question)] != question:
        question_start = opening.rfind(question)
    question_span = (question_start, question_start + len(question))
    begins = tokenizer.bos_token
    complete = isinstance(begins, str) and opening.startswith(begins)
    if answer is None:
        return RenderedChat(opening, question_span, None, complete)
    whole = _apply_chat_template(tokenizer, placeholder, messages, answer, name)
    stem = opening.rstrip()
    start = whole.find(answer, len(stem))
    if start < 0 or not whole.startswith(stem) or whole[len(stem) : start].strip():
        # The template writes a given answer otherwise than it opens one (it may put thoughts
        # first); the model itself would go on from the opening.
        joint = "" if opening != stem or answer[:1].isspace() else " "
        whole, start = opening + joint + answer, len(opening + joint)
    answer_span = (start, start + len(answer))
    return RenderedChat(whole[: start + len(answer)], question_span, answer_span, complete)


def check_no_placeholder(placeholder: str, messages: Sequence[Message], answer: str | None) -> None:
    """Raises InputError when a text contains what stands for a picture."""
    said = [(f"{message.role}'s message", message.text) for message in messages[:-1]]
    for name, text in (*said, ("question", messages[-1].text), ("answer", answer or "")):
        if placeholder in text:
            raise InputError(
                f"the {name} {text!r} contains {placeholder!r}, which stands for the picture;"
                " take it out"
            )


def encode_chat(
    tokenizer: PreTrainedTokenizerBase,
    chat: RenderedChat,
    placeholder: str,
    picture_texts: Sequence[str],
) -> EncodedChat:
    """The chat's tokens, with a text for each picture's placeholder; the answer's are the last."""
    parts = chat.text.split(placeholder)
    assert len(parts) == len(picture_texts) + 1
    text = parts[0]
    shown: list[Span] = []
    moves: list[Span] = []
    for picture, part in zip(picture_texts, parts[1:], strict=True):
        shown.append((len(text), len(text) + len(picture)))
        written = sum(map(len, parts[: len(shown)])) + len(placeholder) * (len(shown) - 1)
        moves.append((written, len(picture) - len(placeholder)))
        text += picture + part

    def moved(span: Span) -> Span:
        by = sum(amount for begin, amount in moves if begin < span[0])
        return span[0] + by, span[1] + by

    encoding = tokenizer(
        text, add_special_tokens=not chat.has_special_tokens, return_offsets_mapping=True
    )
    token_ids: list[int] = list(encoding["input_ids"])
    offsets: list[Span] = list(encoding["offset_mapping"])
    # Some tokenizers close every text with an end token, which would follow the answer.
    while offsets and offsets[-1] == (0, 0):
        token_ids.pop()
        offsets.pop()
    question_span = moved(chat.question_span)
    question = [at for at, span in enumerate(offsets) if _spans_overlap(span, question_span)]
    question_start = question[0] if question else len(token_ids)
    answer_start, answer_offsets = len(token_ids), None
    if chat.answer_span is not None:
        answer_span = moved(chat.answer_span)
        answer = [at for at, span in enumerate(offsets) if span[1] > answer_span[0]]
        answer_start = answer[0] if answer else len(token_ids)
        answer_offsets = tuple(_clip_span(offsets[at], answer_span) for at in answer)
    starts = [span[0] for span in offsets]
    return EncodedChat(
        token_ids,
        tuple((bisect_left(starts, begin), bisect_left(starts, end)) for begin, end in shown),
        question_start,
        tuple(_clip_span(offsets[at], question_span) for at in question),
        answer_start,
        answer_offsets,
    )


def load_tokenizer(name: str, revision: str | None) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer, with the chat template that old repositories keep apart."""
    from transformers.models.auto.tokenization_auto import AutoTokenizer
    from transformers.utils.hub import cached_file

    tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
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
            kept_apart = json.loads(Path(legacy).read_text(encoding="utf-8"))
            tokenizer.chat_template = kept_apart["chat_template"]
    return tokenizer


def _apply_chat_template(
    tokenizer: PreTrainedTokenizerBase,
    placeholder: str,
    messages: Sequence[Message],
    answer: str | None,
    name: str,
) -> str:
    if answer is not None:
        messages = [*messages, Message("assistant", answer)]
    if tokenizer.chat_template is None:
        return _render_vicuna_chat(placeholder, messages, str(tokenizer.eos_token or ""))
    pictures = sum(len(message.pictures) for message in messages)
    # Templates of text-only LLMs know plain strings alone.
    for structured in (True, False):
        try:
            text = tokenizer.apply_chat_template(
                [_message_to_dict(message, placeholder, structured) for message in messages],
                tokenize=False,
                add_generation_prompt=answer is None,
            )
        except (TemplateError, TypeError):
            continue
        shows_all = all(message.text in text for message in messages)
        if isinstance(text, str) and text.count(placeholder) == pictures and shows_all:
            return text
    raise InputError(
        f"LMM {name!r}: its chat template leaves out a picture or a text; give the model's folder"
        " a chat_template.jinja that shows them"
    )


def _message_to_dict(message: Message, placeholder: str, structured: bool) -> dict[str, str]:
    if not structured:
        pictures = "".join(f"{placeholder}\n" for _ in message.pictures)
        return {"role": message.role, "content": pictures + message.text}
    parts = [{"type": "image"} for _ in message.pictures]
    content = [*parts, {"type": "text", "text": message.text}]
    # Lists of parts are what picture templates read; the stub knows only strings.
    return cast(dict[str, str], {"role": message.role, "content": content})


def _render_vicuna_chat(placeholder: str, messages: Sequence[Message], eos_token: str) -> str:
    """LLaVA 1.5's conversation, for checkpoints that come without a template."""
    text = ""
    for message in messages:
        pictures = "".join(f"{placeholder}\n" for _ in message.pictures)
        if message.role == "system":
            text += f"{message.text} "
        elif message.role == "user":
            text += f"USER: {pictures}{message.text} ASSISTANT:"
        else:
            text += f" {message.text}{eos_token}"
    return text


def _spans_overlap(first: Span, second: Span) -> bool:
    return first[0] < second[1] and second[0] < first[1]


def _clip_span(span: Span, outer: Span) -> Span:
    """``span`` counted from the start of ``outer``, and cut to it."""
    length = outer[1] - outer[0]
    return min(max(span[0] - outer[0], 0), length), min(max(span[1] - outer[0], 0), length)
