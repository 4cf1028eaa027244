"""Limits on texts, prompts, answers and numbers of phrases."""

from collections.abc import Sequence
from dataclasses import dataclass

from flmm.serve.errors import APIError
from flmm.serve.settings import Limits

_DEFAULT_MAX_TOKENS = 256
"""Of an answer, where a request does not say."""
_MAX_CHARACTERS_PER_TOKEN = 64
"""Texts longer than this many letters for each token allowed are not worth counting."""


@dataclass(frozen=True)
class PromptLimits:
    """The server's limits, and the model's."""

    limits: Limits
    context_length: int
    """Tokens that the model takes, those of its answer among them."""

    def resolve_max_tokens(self, requested: int | None) -> int:
        """How many tokens an answer has at most.

        Raises:
            Problem: more are wanted than the limit.
        """
        most = self.limits.answer_tokens
        if requested is not None and requested > most:
            raise APIError(
                400,
                "too_many_tokens",
                f"max_tokens is {requested}; give {most} at most",
                "max_tokens",
            )
        return requested or min(most, _DEFAULT_MAX_TOKENS)

    def check_phrase_count(self, count: int, param: str) -> None:
        """Raises Problem where more phrases are asked for than are grounded at once."""
        if count > self.limits.phrases:
            raise APIError(
                400,
                "too_many_phrases",
                f"{param} asks for {count} phrases; {self.limits.phrases} at most are grounded",
                param,
            )

    def check_text_lengths(self, texts: Sequence[str]) -> None:
        """Raises Problem where the texts are too long to be worth counting their tokens."""
        most = min(self.limits.prompt_tokens, self.context_length)
        if sum(map(len, texts)) > most * _MAX_CHARACTERS_PER_TOKEN:
            raise _prompt_too_long_error(most, "more")

    def check_context_length(self, length: int, requested: int | None) -> int:
        """How many tokens the answer may have, after a prompt of that length.

        Raises:
            Problem: the prompt has more than the limit, or leaves less room than is wanted.
        """
        if length > self.limits.prompt_tokens:
            raise _prompt_too_long_error(self.limits.prompt_tokens, str(length))
        # One token more is fed back than is said.
        room = self.context_length - length - 1
        if room < (requested or 1):
            raise APIError(
                400,
                "context_length_exceeded",
                f"the prompt has {length} tokens and the model takes {self.context_length};"
                f" {max(room, 0)} are left for the answer",
                "messages",
            )
        return room


def _prompt_too_long_error(max_tokens: int, count: str) -> APIError:
    return APIError(
        400,
        "context_length_exceeded",
        f"the messages have {count} tokens; {max_tokens} at most are read",
        "messages",
    )
