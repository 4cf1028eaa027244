"""Conversion of a chat's messages to a conversation with pictures."""

from collections.abc import Callable, Sequence
from typing import Literal

from PIL import Image

from flmm.lmm.prompt import Message
from flmm.serve.common.conversation import Conversation
from flmm.serve.errors import APIError
from flmm.serve.openai.request_models import (
    AssistantMessage,
    ChatMessage,
    ImagePart,
    TextPart,
    UserMessage,
)

ReadPicture = Callable[[str, str], Image.Image]
"""Returns a URL's picture; the second argument is the field's name, for errors."""
Role = Literal["system", "user", "assistant"]


def read_conversation(
    messages: Sequence[ChatMessage], max_pictures: int, read_picture: ReadPicture
) -> Conversation:
    """Return the messages with their pictures.

    A message's pictures come before its text, wherever they stood in it.

    Raises:
        APIError: there are more than ``max_pictures`` pictures, the last message is not the
            user's, a text is empty, or ``read_picture`` refuses a picture.
    """
    if not isinstance(messages[-1], UserMessage):
        raise APIError(
            400,
            "invalid_value",
            f"the last message is the {messages[-1].role}'s; end with the user's",
            "messages",
        )
    num_pictures = sum(
        isinstance(part, ImagePart) for message in messages for part in message.content
    )
    if num_pictures > max_pictures:
        raise APIError(
            400,
            "too_many_images",
            f"{num_pictures} pictures; send {max_pictures} at most",
            "messages",
        )
    *history, question = [
        _convert_message(message, f"messages[{index}]", read_picture)
        for index, message in enumerate(messages)
    ]
    return Conversation(tuple(history), question)


def _convert_message(message: ChatMessage, field_name: str, read_picture: ReadPicture) -> Message:
    role: Role = "system" if message.role == "developer" else message.role
    content = message.content
    pictures: tuple[Image.Image, ...] = ()
    if isinstance(content, str):
        text = content
    else:
        text = "\n".join(part.text for part in content if isinstance(part, TextPart))
        pictures = tuple(
            read_picture(part.image_url.url, f"{field_name}.content[{index}].image_url.url")
            for index, part in enumerate(content)
            if isinstance(part, ImagePart)
        )
    text = text.strip()
    if not text and not isinstance(message, AssistantMessage):
        raise APIError(
            400, "invalid_value", f"{field_name} has no text; write one", f"{field_name}.content"
        )
    return Message(role, text, pictures)
