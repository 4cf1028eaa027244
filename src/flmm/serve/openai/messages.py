"""From the messages of a chat to what the model is asked."""

from collections.abc import Callable, Sequence
from typing import Literal

from PIL import Image

from flmm.lmm.prompt import Message
from flmm.serve.common.conversation import Conversation
from flmm.serve.errors import Problem
from flmm.serve.openai.requests import (
    AssistantMessage,
    ChatMessage,
    ImagePart,
    TextPart,
    UserMessage,
)

Read = Callable[[str, str], Image.Image]
"""Makes a picture of a URL; the second is the field's name."""
Role = Literal["system", "user", "assistant"]


def read_conversation(messages: Sequence[ChatMessage], most: int, read: Read) -> Conversation:
    """The messages with their pictures.

    A message's pictures come before its text, wherever they stood in it.

    Raises:
        Problem: there are more than ``most`` pictures, the last message is no user's, a text is
            empty, or ``read`` refuses a picture.
    """
    if not isinstance(messages[-1], UserMessage):
        raise Problem(
            400,
            "invalid_value",
            f"the last message is the {messages[-1].role}'s; end with the user's",
            "messages",
        )
    shown = sum(isinstance(part, ImagePart) for message in messages for part in message.content)
    if shown > most:
        raise Problem(400, "too_many_images", f"{shown} pictures; send {most} at most", "messages")
    read_all = [_message(one, f"messages[{at}]", read) for at, one in enumerate(messages)]
    return Conversation(tuple(read_all[:-1]), read_all[-1])


def _message(message: ChatMessage, name: str, read: Read) -> Message:
    role: Role = "system" if message.role == "developer" else message.role
    content = message.content
    pictures: tuple[Image.Image, ...] = ()
    if isinstance(content, str):
        text = content
    else:
        text = "\n".join(part.text for part in content if isinstance(part, TextPart))
        pictures = tuple(
            read(part.image_url.url, f"{name}.content[{at}].image_url.url")
            for at, part in enumerate(content)
            if isinstance(part, ImagePart)
        )
    text = text.strip()
    if not text and not isinstance(message, AssistantMessage):
        raise Problem(400, "invalid_value", f"{name} has no text; write one", f"{name}.content")
    return Message(role, text, pictures)
