"""What the model's threads tell the server while they answer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from flmm.answers.answer import Phrase
from flmm.grounding.attention_view import AttendedText

Reason = Literal["stop", "length"]
"""Why an answer ended: by itself or a stop text, or by its limit of tokens."""


@dataclass(frozen=True)
class Located:
    """A phrase, and in which of the conversation's pictures its mask is."""

    phrase: Phrase
    picture: int


@dataclass(frozen=True)
class TextSaid:
    """The answer goes on."""

    text: str


@dataclass(frozen=True)
class PhraseFound:
    """A phrase is complete, and this is where it is."""

    located: Located


@dataclass(frozen=True)
class Finished:
    """The answer is complete; nothing follows."""

    text: str
    phrases: tuple[Located, ...]
    reason: Reason
    tokens: int
    timings: dict[str, float]


@dataclass(frozen=True)
class Attended:
    """The maps are there; nothing follows."""

    text: AttendedText
    timings: dict[str, float]


@dataclass(frozen=True)
class Failed:
    """There will be no answer; nothing follows."""

    error: Exception


Last = Finished | Attended | Failed
"""After one of these nothing follows."""

Event = TextSaid | PhraseFound | Last

Tell = Callable[[Event], None]
"""Takes a job's events; called from any thread."""
