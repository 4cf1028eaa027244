"""What is asked about one picture of a batch."""

import os
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from flmm.errors import InputError

_NonEmptyText = Annotated[str, Field(min_length=1)]
_NonEmptyTexts = Annotated[tuple[_NonEmptyText, ...], Field(min_length=1, strict=False)]


class Task(BaseModel):
    """One picture with a question or several about it, a text to ground or phrases to segment."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: _NonEmptyText | None = None
    """Names the result; None for the picture's path."""
    image: _NonEmptyText
    """As in the list: relative to the list's folder, or absolute."""
    question: _NonEmptyText | None = None
    """With ``text``, what the text answers."""
    questions: _NonEmptyTexts | None = None
    """Each gets an answer of its own."""
    text: _NonEmptyText | None = None
    phrases: _NonEmptyTexts | None = None
    """With ``text``, which of its phrases are grounded."""

    @property
    def kind(self) -> Literal["text", "phrases", "question"]:
        """What is done: a text is grounded, phrases are segmented, or questions are answered."""
        if self.text is not None:
            return "text"
        return "question" if self.phrases is None else "phrases"

    @property
    def asks_nothing(self) -> bool:
        """Whether it has nothing of its own."""
        return not (self.question or self.questions or self.phrases or self.text)

    def complete(self, question: str | None, place: str) -> "Task":
        """Return the task, with the question of the whole batch if it has nothing of its own.

        Raises:
            InputError: as ``check`` does.
        """
        self.check(question, place)
        if self.asks_nothing:
            # Faster than a copy and than ``model_construct``, which is Python.
            return Task(id=self.id, image=self.image, question=question)
        return self

    def check(self, question: str | None, place: str) -> None:
        """Check that it asks for one thing, itself or with the question of the whole batch.

        Raises:
            InputError: nothing or too much is asked; ``place`` says where.
        """
        if self.asks_nothing:
            is_right = question is not None
        elif self.text is not None:
            is_right = self.questions is None
        else:
            asked = (self.question, self.questions, self.phrases)
            is_right = sum(one is not None for one in asked) == 1
        if not is_right:
            raise InputError(
                f"{place}: give one of question, questions and phrases with the image, or a text"
            )


def to_unicode(name: str) -> str:
    """Return a file's name as text: bytes that are not UTF-8 become such as ``\\xff``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
