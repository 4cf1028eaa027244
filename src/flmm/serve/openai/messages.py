"""From the messages of a chat to what the model is asked."""

from collections.abc import Callable, Sequence
from typing import Literal

from PIL import Image

from flmm.lmm.prompt import Message
from flmm.serve.common.conversation import Conversation
from flmm.serve.errors import APIError
from flmm.serve.openai.requests import (
    AssistantMessage,
    ChatMessage,
    ImagePart,
    TextPart,
    UserMessage,
)

ReadPicture = Callable[[str, str], Image.Image]
"""Makes a picture of a URL; the second is the field's name."""
Role = Literal["system", "user", "assistant"]


def read_conversation(
    messages: Sequence[ChatMessage], max_pictures: int, read_picture: ReadPicture
) -> Conversation:
    """The messages with their pictures.

    A message's pictures come before its text, wherever they stood in it.

    Raises:
        Problem: there are more than ``most`` pictures, the last message is no user's, a text is
            empty, or ``read`` refuses a picture.
    """
    if not isinstance(messages[-1], UserMessage):
        raise APIError(
            400,
            "invalid_value",
            f"the last message is the {messages[-1].role}'s; end with the user's",
            "messages",
        )
    shown = sum(isinstance(part, ImagePart) for message in messages for part in message.content)
    if shown > max_pictures:
        raise APIError(
            400, "too_many_images", f"{shown} pictures; send {max_pictures} at most", "messages"
        )
    read_all = [
        _convert_message(one, f"messages[{at}]", read_picture) for at, one in enumerate(messages)
    ]
    return Conversation(tuple(read_all[:-1]), read_all[-1])


def _convert_message(message: ChatMessage, field_name: str, read_picture: ReadPicture) -> Message:
    role: Role = "system" if message.role == "developer" else message.role
    content = message.content
    pictures: tuple[Image.Image, ...] = ()
    if isinstance(content, str):
        text = content
    else:
        text = "\n".join(part.text for part in content if isinstance(part, TextPart))
        pictures = tuple(
            read_picture(part.image_url.url, f"{field_name}.content[{at}].image_url.url")
            for at, part in enumerate(content)
            if isinstance(part, ImagePart)
        )
    text = text.strip()
    if not text and not isinstance(message, AssistantMessage):
        raise APIError(
            400, "invalid_value", f"{field_name} has no text; write one", f"{field_name}.content"
        )
    return Message(role, text, pictures)
