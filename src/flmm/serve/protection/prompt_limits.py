"""Limits on texts, prompts, answers and numbers of phrases."""

from collections.abc import Sequence
from dataclasses import dataclass

from flmm.serve.errors import Problem
from flmm.serve.settings import Limits

_USUAL_TOKENS = 256
"""Of an answer, where a request does not say."""
_LETTERS_A_TOKEN = 64
"""Texts longer than this many letters for each token allowed are not worth counting."""


@dataclass(frozen=True)
class PromptLimits:
    """The server's limits, and the model's."""

    limits: Limits
    context_length: int
    """Tokens that the model takes, those of its answer among them."""

    def most_tokens(self, wanted: int | None) -> int:
        """How many tokens an answer has at most.

        Raises:
            Problem: more are wanted than the limit.
        """
        most = self.limits.answer_tokens
        if wanted is not None and wanted > most:
            raise Problem(
                400, "too_many_tokens", f"max_tokens is {wanted}; give {most} at most", "max_tokens"
            )
        return wanted or min(most, _USUAL_TOKENS)

    def check_count(self, count: int, param: str) -> None:
        """Raises Problem where more phrases are asked for than are grounded at once."""
        if count > self.limits.phrases:
            raise Problem(
                400,
                "too_many_phrases",
                f"{param} asks for {count} phrases; {self.limits.phrases} at most are grounded",
                param,
            )

    def check_texts(self, texts: Sequence[str]) -> None:
        """Raises Problem where the texts are too long to be worth counting their tokens."""
        most = min(self.limits.prompt_tokens, self.context_length)
        if sum(map(len, texts)) > most * _LETTERS_A_TOKEN:
            raise _too_long(most, "more")

    def check_room(self, length: int, wanted: int | None) -> int:
        """How many tokens the answer may have, after a prompt of that length.

        Raises:
            Problem: the prompt has more than the limit, or leaves less room than is wanted.
        """
        if length > self.limits.prompt_tokens:
            raise _too_long(self.limits.prompt_tokens, str(length))
        # One token more is fed back than is said.
        room = self.context_length - length - 1
        if room < (wanted or 1):
            raise Problem(
                400,
                "context_length_exceeded",
                f"the prompt has {length} tokens and the model takes {self.context_length};"
                f" {max(room, 0)} are left for the answer",
                "messages",
            )
        return room


def _too_long(most: int, count: str) -> Problem:
    return Problem(
        400,
        "context_length_exceeded",
        f"the messages have {count} tokens; {most} at most are read",
        "messages",
    )
