"""A question, with what was said before it."""

from dataclasses import dataclass

from PIL import Image

from flmm.lmm.prompt import Message


@dataclass(frozen=True)
class Conversation:
    """A question, with what was said before."""

    history: tuple[Message, ...]
    question: Message

    @property
    def pictures(self) -> tuple[Image.Image, ...]:
        """All, in their order."""
        return tuple(
            picture for message in (*self.history, self.question) for picture in message.pictures
        )
