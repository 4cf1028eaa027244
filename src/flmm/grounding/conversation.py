"""A question and the messages before it, from messages in the chat format of transformers."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from PIL import Image

from flmm.errors import InputError, first_line, shorten
from flmm.lmm.message import Message, Role
from flmm.pictures.reading import PictureLike, read_picture
from flmm.user_input import check_text

Pictures = PictureLike | Sequence[PictureLike]
"""One picture, or a list or tuple of several."""
ChatMessage = Mapping[str, object]
"""``{"role": "system", "user" or "assistant", "content": text}``, or with a list of parts as
content: ``{"type": "text", "text": …}`` and ``{"type": "image", "image": picture}``, where "path"
and "url" may name the picture's file instead of "image"."""

_PICTURE_KEYS = ("image", "path", "url")


@dataclass(frozen=True)
class Conversation:
    """A question and the messages before it."""

    history: tuple[Message, ...]
    question: Message

    def begin_with(self, message: Message) -> "Conversation":
        """Return the conversation with a message before all others."""
        return Conversation((message, *self.history), self.question)

    @property
    def pictures(self) -> tuple[Image.Image, ...]:
        """The pictures of all messages, in order."""
        return tuple(
            picture for message in (*self.history, self.question) for picture in message.pictures
        )


def build_conversation(
    image: Pictures | None,
    question: str,
    history: Sequence[ChatMessage] = (),
    system: str | None = None,
) -> Conversation:
    """Return the conversation of a question.

    Args:
        image: what the conversation is about. If no message before the question has a picture,
            these are shown with the user's first message, else with the question. None if
            messages have all pictures.
        question: the user's last message.
        history: the messages before it; of each, pictures come before its text.
        system: the text of a system message before all others.

    Raises:
        InputError: there is no picture or one cannot be read, the question is empty, or a message
            is not in the format.
    """
    own = () if image is None else _read_pictures(image)
    asked = Message("user", check_text("question", question))
    earlier = [_parse_message(message, f"history[{n}]") for n, message in enumerate(history)]
    first = next((n for n, message in enumerate(earlier) if message.role == "user"), None)
    if first is None or any(message.pictures for message in earlier):
        asked = Message("user", question, own)
    else:
        earlier[first] = Message("user", earlier[first].text, own)
    if system is not None:
        if any(message.role == "system" for message in earlier):
            raise InputError("system is given, and the history has a system message; keep one")
        earlier.insert(0, Message("system", check_text("system prompt", system)))
    conversation = Conversation(tuple(earlier), asked)
    if not conversation.pictures:
        raise InputError("the conversation has no picture; give one")
    return conversation


def read_messages(file: Path) -> list[ChatMessage]:
    """Return the messages of a JSON file; paths of pictures in it are relative to its folder.

    Raises:
        InputError: it cannot be read, or is no list of messages.
    """
    try:
        messages = json.loads(file.read_bytes())
    except OSError as error:
        raise InputError(
            f"the history {str(file)!r} cannot be read ({error.strerror}); check the path"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"the history {str(file)!r} is no JSON ({first_line(error)}); give a list of messages"
        ) from error
    if not isinstance(messages, list):
        raise InputError(
            f"the history {str(file)!r} is no list; give"
            ' [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]'
        )
    return [_resolve_paths(message, file.parent) for message in messages]


def _resolve_paths(message: ChatMessage, folder: Path) -> ChatMessage:
    content = message.get("content") if isinstance(message, Mapping) else None
    if not isinstance(content, list):
        return message
    return {**message, "content": [_resolve_part(part, folder) for part in content]}


def _resolve_part(part: object, folder: Path) -> object:
    if not isinstance(part, Mapping) or part.get("type") != "image":
        return part
    return {
        key: os.path.join(folder, value)
        if key in _PICTURE_KEYS and isinstance(value, str) and "://" not in value
        else value
        for key, value in part.items()
    }


def _read_pictures(image: Pictures) -> tuple[Image.Image, ...]:
    if not isinstance(image, list | tuple):
        return (read_picture(cast(PictureLike, image)),)
    if not image:
        raise InputError("the list of pictures is empty; give at least one")
    return tuple(read_picture(picture) for picture in image)


def _parse_message(message: ChatMessage, name: str) -> Message:
    """Return a message; ``name`` names it in errors."""
    if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
        raise InputError(
            f"{name} is {shorten(repr(message))}; give"
            ' {"role": "user" or "assistant", "content": "…"}'
        )
    role, content = message["role"], message["content"]
    if role not in get_args(Role):
        raise InputError(f"{name} has the role {role!r}; give one of {', '.join(get_args(Role))}")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, Sequence) or isinstance(parts, bytes):
        raise InputError(
            f"{name} has content of type {type(content).__name__!r}; give a text or a list of parts"
        )
    texts: list[str] = []
    pictures: list[Image.Image] = []
    for part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "image" and any(key in part for key in _PICTURE_KEYS):
            key = next(key for key in _PICTURE_KEYS if key in part)
            pictures.append(read_picture(cast(PictureLike, part[key])))
        else:
            raise InputError(
                f"{name} has the part {shorten(repr(part))}; give"
                ' {"type": "text", "text": "…"} or {"type": "image", "image": picture}'
            )
    text = "\n".join(texts).strip()
    if pictures and role != "user":
        raise InputError(f"{name} is the {role}'s and has a picture; only the user shows some")
    if text or role != "assistant":
        check_text(f"text of {name}", text)
    return Message(cast(Role, role), text, tuple(pictures))
