"""Limits on texts, prompts, answers and numbers of phrases."""

from collections.abc import Sequence
from dataclasses import dataclass

from flmm.serve.errors import APIError
from flmm.serve.settings import Limits

_DEFAULT_MAX_TOKENS = 256
"""Of an answer, where a request sets none."""
_MAX_CHARACTERS_PER_TOKEN = 64
"""Texts with more characters for each allowed token are refused without tokenizing them."""


@dataclass(frozen=True)
class PromptLimits:
    """The limits of the server and of the model on one request."""

    limits: Limits
    context_length: int
    """The most tokens that the model takes, prompt and answer together."""

    def resolve_max_tokens(self, requested: int | None) -> int:
        """Return how many tokens an answer may have: what is requested, up to the limit."""
        return min(requested or _DEFAULT_MAX_TOKENS, self.limits.answer_tokens)

    def check_phrase_count(self, count: int, param: str) -> None:
        """Raise APIError if a request asks for more phrases than the limit."""
        if count > self.limits.phrases:
            raise APIError(
                400,
                "too_many_phrases",
                f"{param} asks for {count} phrases; {self.limits.phrases} at most are grounded",
                param,
            )

    def check_text_lengths(self, texts: Sequence[str]) -> None:
        """Raise APIError if the texts are too long to be tokenized."""
        max_tokens = min(self.limits.prompt_tokens, self.context_length)
        if sum(map(len, texts)) > max_tokens * _MAX_CHARACTERS_PER_TOKEN:
            raise _prompt_too_long_error(max_tokens, "more")

    def check_context_length(self, length: int) -> int:
        """Return how many tokens an answer may have after a prompt of ``length`` tokens.

        Raises:
            APIError: the prompt exceeds the limit, or leaves no token for an answer.
        """
        if length > self.limits.prompt_tokens:
            raise _prompt_too_long_error(self.limits.prompt_tokens, str(length))
        # The answer's last token is fed back as well, which generates one token more.
        room = self.context_length - length - 1
        if room < 1:
            raise APIError(
                400,
                "context_length_exceeded",
                f"the prompt has {length} tokens and the model takes {self.context_length};"
                " none is left for the answer",
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
