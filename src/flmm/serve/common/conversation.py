"""A question and the messages before it."""

from dataclasses import dataclass

from PIL import Image

from flmm.lmm.prompt import Message


@dataclass(frozen=True)
class Conversation:
    """A question and the messages before it."""

    history: tuple[Message, ...]
    question: Message

    @property
    def pictures(self) -> tuple[Image.Image, ...]:
        """The pictures of all messages, in order."""
        return tuple(
            picture for message in (*self.history, self.question) for picture in message.pictures
        )
