"""A question and the messages before it."""

from dataclasses import dataclass

from PIL import Image

from flmm.lmm.prompt import Message


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
