"""The text of a conversation, as an LMM's chat template writes it."""

import functools
import logging
from collections.abc import Sequence
from typing import cast

from jinja2 import TemplateError
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from flmm.errors import InputError
from flmm.lmm.message import Message

_log = logging.getLogger("flmm.lmm")


def apply_chat_template(
    tokenizer: PreTrainedTokenizerBase,
    placeholder: str,
    messages: Sequence[Message],
    answer: str | None,
    name: str,
) -> str:
    """Return a conversation as the tokenizer's chat template writes it, or LLaVA 1.5's without one.

    A system message that the template leaves out is left out: the LMM was trained without. This is
    logged once.

    Args:
        tokenizer: the LMM's.
        placeholder: the text for each picture.
        messages: of the conversation.
        answer: follows them; None ends with the generation prompt.
        name: the LMM's, for errors.

    Raises:
        InputError: the template leaves out a picture or another text.
    """
    if answer is not None:
        messages = [*messages, Message("assistant", answer)]
    if tokenizer.chat_template is None:
        return _render_vicuna_chat(placeholder, messages, str(tokenizer.eos_token or ""))
    pictures = sum(len(message.pictures) for message in messages)
    without_system: str | None = None
    # Templates of text-only LLMs accept only plain strings as content.
    for structured in (True, False):
        chat = [_message_to_dict(message, placeholder, structured) for message in messages]
        try:
            text = tokenizer.apply_chat_template(
                chat, tokenize=False, add_generation_prompt=answer is None
            )
        except (TemplateError, TypeError):
            continue
        # Some write a list of parts as Python does: Llama 3.2 Vision's that of a system message.
        writes_lists = structured and any(str(entry["content"]) in text for entry in chat)
        left_out = {message.role for message in messages if message.text not in text}
        if not isinstance(text, str) or text.count(placeholder) != pictures or writes_lists:
            continue
        if not left_out:
            return text
        if left_out == {"system"} and without_system is None:
            without_system = text
    if without_system is not None:
        _warn_of_system_message(name)
        return without_system
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
    # Templates with pictures read lists of parts; transformers' type hints allow only strings.
    return cast(dict[str, str], {"role": message.role, "content": content})


def _render_vicuna_chat(placeholder: str, messages: Sequence[Message], eos_token: str) -> str:
    """Render LLaVA 1.5's chat, for checkpoints without a template."""
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


@functools.lru_cache(maxsize=64)
def _warn_of_system_message(name: str) -> None:
    _log.warning("LMM %r has no system message: its chat template leaves out what was given", name)
