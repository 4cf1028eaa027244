"""A question and an answer as the chat text that the model was trained on, and as tokens."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from jinja2 import TemplateError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.tokenization_utils_tokenizers import PreTrainedTokenizerFast

from flmm.errors import InputError
from flmm.lmm.base import Offsets

Span = tuple[int, int]


@dataclass(frozen=True)
class Chat:
    """The chat's text, and where in it the question and the answer stand."""

    text: str
    question: Span
    answer: Span | None


@dataclass(frozen=True)
class EncodedChat:
    """The chat's tokens, and which of them are the question and the answer."""

    token_ids: list[int]
    question_start: int
    question_offsets: Offsets
    answer_start: int
    answer_offsets: Offsets | None


def render_chat(
    tokenizer: PreTrainedTokenizerBase, image_token: str, question: str, answer: str | None
) -> Chat:
    """The chat with one ``image_token``, up to and with the answer where one is given.

    Uses the tokenizer's chat template; without one, LLaVA 1.5's
    ``USER: <image>\\n{question} ASSISTANT:``.

    Raises:
        InputError: the question or the answer contains ``image_token``.
    """
    for name, said in (("question", question), ("answer", answer)):
        if said is not None and image_token in said:
            raise InputError(
                f"the {name} {said!r} contains {image_token!r}, which stands for the picture;"
                " take it out"
            )
    opening = _render(tokenizer, image_token, question, None)
    # The question may also be a word of the template's own ("USER"), before or after it.
    question_start = opening.find(question, opening.find(image_token) + len(image_token))
    if question_start < 0:
        question_start = opening.find(question)
    question_span = (question_start, question_start + len(question))
    if answer is None:
        return Chat(opening, question_span, None)
    whole = _render(tokenizer, image_token, question, answer)
    stem = opening.rstrip()
    start = whole.find(answer, len(stem))
    if start < 0 or not whole.startswith(stem) or whole[len(stem) : start].strip():
        # The template writes a given answer otherwise than it opens one (it may put thoughts
        # first); the model itself would go on from the opening.
        joint = "" if opening != stem or answer[:1].isspace() else " "
        whole, start = opening + joint + answer, len(opening + joint)
    return Chat(whole[: start + len(answer)], question_span, (start, start + len(answer)))


def encode_chat(tokenizer: PreTrainedTokenizerBase, chat: Chat) -> EncodedChat:
    """The chat's tokens; the answer's are the last."""
    begins = tokenizer.bos_token
    encoding = tokenizer(
        chat.text,
        # A template writes the first token itself.
        add_special_tokens=not (isinstance(begins, str) and chat.text.startswith(begins)),
        return_offsets_mapping=True,
    )
    token_ids: list[int] = list(encoding["input_ids"])
    offsets: list[Span] = list(encoding["offset_mapping"])
    # Some tokenizers close every text with an end token, which would follow the answer.
    while offsets and offsets[-1] == (0, 0):
        token_ids.pop()
        offsets.pop()
    question = [at for at, span in enumerate(offsets) if _overlap(span, chat.question)]
    question_start = question[0] if question else len(token_ids)
    question_offsets = tuple(_within(offsets[at], chat.question) for at in question)
    if chat.answer is None:
        return EncodedChat(token_ids, question_start, question_offsets, len(token_ids), None)
    answer = [at for at, span in enumerate(offsets) if span[1] > chat.answer[0]]
    return EncodedChat(
        token_ids,
        question_start,
        question_offsets,
        answer[0] if answer else len(token_ids),
        tuple(_within(offsets[at], chat.answer) for at in answer),
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


def tiny_tokenizer(image_token: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer made in memory: any text goes through it and comes back."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<s>", "</s>", "<pad>", image_token]
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        ["USER: what is on the grass? ASSISTANT: the cat and the dog"], trainer
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens=[image_token],
    )


def _render(
    tokenizer: PreTrainedTokenizerBase, image_token: str, question: str, answer: str | None
) -> str:
    if tokenizer.chat_template is None:
        said = "" if answer is None else f" {answer}"
        return f"USER: {image_token}\n{question} ASSISTANT:{said}"
    contents: list[str | list[dict[str, str]]] = [
        [{"type": "image"}, {"type": "text", "text": question}],
        # Templates of text-only LLMs know plain strings alone.
        f"{image_token}\n{question}",
    ]
    for content in contents:
        messages = [{"role": "user", "content": content}]
        if answer is not None:
            reply = answer if isinstance(content, str) else [{"type": "text", "text": answer}]
            messages.append({"role": "assistant", "content": reply})
        try:
            text = tokenizer.apply_chat_template(
                # Lists of parts are what picture templates read; the stub knows only strings.
                cast(list[dict[str, str]], messages),
                tokenize=False,
                add_generation_prompt=answer is None,
            )
        except (TemplateError, TypeError):
            continue
        if isinstance(text, str) and text.count(image_token) == 1 and question in text:
            return text
    raise InputError(
        f"the chat template of {tokenizer.name_or_path!r} shows no picture or no question;"
        " give the model's folder a chat_template.jinja that does"
    )


def _overlap(first: Span, second: Span) -> bool:
    return first[0] < second[1] and second[0] < first[1]


def _within(span: Span, outer: Span) -> Span:
    """``span`` counted from the start of ``outer``, and cut to it."""
    length = outer[1] - outer[0]
    return min(max(span[0] - outer[0], 0), length), min(max(span[1] - outer[0], 0), length)
