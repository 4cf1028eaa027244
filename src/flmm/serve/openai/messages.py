"""Conversion of a chat's messages to a conversation with pictures."""

from collections.abc import Callable, Iterable, Sequence

from PIL import Image

from flmm.grounding.conversation import Conversation
from flmm.lmm.message import Message, Role
from flmm.serve.errors import APIError
from flmm.serve.openai.message_models import (
    ChatMessage,
    ImagePart,
    TextPart,
    UserMessage,
)

ReadPicture = Callable[[str, str], Image.Image]
"""Returns a URL's picture; the second argument is the field's name, for errors."""


def read_conversation(
    messages: Sequence[ChatMessage],
    max_pictures: int,
    read_picture: ReadPicture,
    field_name: str = "messages",
) -> Conversation:
    """Return the messages with their pictures.

    A message's pictures come before its text, wherever they stood in it. The user's messages that
    follow one another are one message; system messages without text are left out.

    Args:
        messages: of the request.
        max_pictures: of the whole conversation.
        read_picture: reads each of them.
        field_name: the messages' field in the request, for errors.

    Raises:
        APIError: there are more than ``max_pictures`` pictures, the last message is not the
            user's, one of the user's has neither text nor a picture, or ``read_picture`` refuses a
            picture.
    """
    if not isinstance(messages[-1], UserMessage):
        raise APIError(
            400,
            "invalid_value",
            f"the last message is the {messages[-1].role}'s; end with the user's",
            field_name,
        )
    num_pictures = sum(
        isinstance(part, ImagePart) for message in messages for part in message.content
    )
    if num_pictures > max_pictures:
        raise APIError(
            400,
            "too_many_images",
            f"{num_pictures} pictures; send {max_pictures} at most",
            field_name,
        )
    converted = [
        _convert_message(message, f"{field_name}[{index}]", read_picture)
        for index, message in enumerate(messages)
    ]
    *history, question = _merge_user_messages(
        message for message in converted if message.text or message.role != "system"
    )
    return Conversation(tuple(history), question)


def _merge_user_messages(messages: Iterable[Message]) -> list[Message]:
    """Return the messages, each run of the user's as one: chat templates want turns."""
    merged: list[Message] = []
    for message in messages:
        if merged and merged[-1].role == message.role == "user":
            text = "\n".join(filter(None, (merged[-1].text, message.text)))
            merged[-1] = Message("user", text, merged[-1].pictures + message.pictures)
        else:
            merged.append(message)
    return merged


def _convert_message(message: ChatMessage, field_name: str, read_picture: ReadPicture) -> Message:
    role: Role = "system" if message.role == "developer" else message.role
    content = message.content
    pictures: tuple[Image.Image, ...] = ()
    if isinstance(content, str):
        text = content
    else:
        text = "\n".join(part.text for part in content if isinstance(part, TextPart))
        pictures = tuple(
            read_picture(part.url, f"{field_name}.content[{index}].image_url.url")
            for index, part in enumerate(content)
            if isinstance(part, ImagePart)
        )
    text = text.strip()
    if isinstance(message, UserMessage) and not text and not pictures:
        raise APIError(
            400,
            "invalid_value",
            f"{field_name} has no text and no picture; write one",
            f"{field_name}.content",
        )
    return Message(role, text, pictures)
