"""What an answer depends on, beside the pictures and the question."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, Unpack

from flmm.grounding.conversation import ChatMessage, Pictures
from flmm.grounding.mask_options import DEFAULT_MASK_OPTIONS, MaskKeywords, MaskOptions
from flmm.grounding.phrase_extraction import PhraseSource
from flmm.lmm.sampling import GREEDY, SamplingParams

Question = tuple[Pictures | None, str] | tuple[Pictures | None, str, Sequence[ChatMessage]]
"""Pictures, a question about them and, if there are any, the messages before it."""


class ChatKeywords(MaskKeywords, total=False):
    """The keyword arguments of ``Grounder.chat``, for ``Unpack``."""

    history: Sequence[ChatMessage]
    system: str | None
    max_new_tokens: int
    temperature: float
    seed: int | None
    phrase_source: PhraseSource | None


@dataclass(frozen=True)
class ChatOptions:
    """The messages before a question, how it is answered, and how the answer is grounded."""

    max_new_tokens: int = 256
    """The answer is cut there."""
    sampling_params: SamplingParams = GREEDY
    mask_options: MaskOptions = DEFAULT_MASK_OPTIONS
    phrase_source: PhraseSource | None = None
    """What chooses the phrases; None for the head's selector if it has one."""
    history: Sequence[ChatMessage] = ()
    """Messages before the question."""
    system: str | None = None
    """Text of a system message before all others."""

    @classmethod
    def from_keywords(
        cls,
        *,
        history: Sequence[ChatMessage] = (),
        system: str | None = None,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        seed: int | None = None,
        phrase_source: PhraseSource | None = None,
        **mask_options: Unpack[MaskKeywords],
    ) -> Self:
        """Return the options as ``Grounder.chat`` takes them.

        Raises:
            InputError: a value is outside its range.
        """
        return cls(
            max_new_tokens,
            SamplingParams(temperature, seed),
            MaskOptions(**mask_options),
            phrase_source,
            history,
            system,
        )
