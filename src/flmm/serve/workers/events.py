"""Events that the model's threads send while they run a job."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from flmm.answers.phrase import Phrase
from flmm.grounding.attention_view import AttentionView

FinishReason = Literal["stop", "length"]
"""Why an answer ended: by itself or at a stop string, or at its limit of tokens."""


@dataclass(frozen=True)
class LocatedPhrase:
    """A phrase, and the index of the conversation's picture in which its mask is."""

    phrase: Phrase
    picture_index: int


@dataclass(frozen=True)
class TextDelta:
    """The next piece of the answer's text."""

    text: str


@dataclass(frozen=True)
class PhraseFound:
    """A phrase of the answer has its mask."""

    located_phrase: LocatedPhrase


@dataclass(frozen=True)
class AnswerFinished:
    """The answer is complete; the last event."""

    text: str
    phrases: tuple[LocatedPhrase, ...]
    finish_reason: FinishReason
    num_tokens: int
    timings: dict[str, float]


@dataclass(frozen=True)
class AttendFinished:
    """The attention maps are computed; the last event."""

    view: AttentionView
    timings: dict[str, float]


@dataclass(frozen=True)
class JobFailed:
    """The job failed; the last event."""

    error: Exception


FinalEvent = AnswerFinished | AttendFinished | JobFailed
"""The last event of a job."""

JobEvent = TextDelta | PhraseFound | FinalEvent

EventCallback = Callable[[JobEvent], None]
"""Receives a job's events; called from any thread."""
