"""What the model's threads tell the server while they answer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from flmm.answers.answer import Phrase
from flmm.grounding.attention_view import AttentionView

FinishReason = Literal["stop", "length"]
"""Why an answer ended: by itself or a stop text, or by its limit of tokens."""


@dataclass(frozen=True)
class LocatedPhrase:
    """A phrase, and in which of the conversation's pictures its mask is."""

    phrase: Phrase
    picture_index: int


@dataclass(frozen=True)
class TextDelta:
    """The answer goes on."""

    text: str


@dataclass(frozen=True)
class PhraseFound:
    """A phrase is complete, and this is where it is."""

    located_phrase: LocatedPhrase


@dataclass(frozen=True)
class AnswerFinished:
    """The answer is complete; nothing follows."""

    text: str
    phrases: tuple[LocatedPhrase, ...]
    finish_reason: FinishReason
    num_tokens: int
    timings: dict[str, float]


@dataclass(frozen=True)
class AttendFinished:
    """The maps are there; nothing follows."""

    view: AttentionView
    timings: dict[str, float]


@dataclass(frozen=True)
class JobFailed:
    """There will be no answer; nothing follows."""

    error: Exception


FinalEvent = AnswerFinished | AttendFinished | JobFailed
"""After one of these nothing follows."""

JobEvent = TextDelta | PhraseFound | FinalEvent

EventCallback = Callable[[JobEvent], None]
"""Takes a job's events; called from any thread."""
