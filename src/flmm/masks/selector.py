"""The keyword selector: which words of an answer can be grounded (paper section 3.5, step 6).

Letters: ``T`` tokens of the answer, ``D`` LLM width.
"""

from collections.abc import Sequence

import regex
from torch import Tensor, nn

WORD_JOINERS = ("'", "’", "-")
"""Characters that join two parts of one word."""

_LETTERS = r"(?:[\p{L}\p{N}_][\p{M}\u200c\u200d]*)+"
WORD_PATTERN = regex.compile(rf"{_LETTERS}(?:[{regex.escape(''.join(WORD_JOINERS))}]{_LETTERS})*")
"""A word: letters or digits with their combining marks, hyphens and apostrophes inside only."""

DEFAULT_THRESHOLD = 0.3
"""The paper's threshold of a word's probability."""


class KeywordSelector(nn.Module):
    """A token classifier on layer-weighted hidden states (paper section 3.5).

    Args:
        hidden_size: ``D``.
        width: of the one hidden layer.
    """

    def __init__(self, hidden_size: int, width: int = 256) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(hidden_size), nn.Linear(hidden_size, width), nn.GELU(), nn.Linear(width, 1)
        )

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Return (..., T) logits for (..., T, D) layer-weighted states; above 0 is "groundable"."""
        logits: Tensor = self.layers(hidden_states)
        return logits.squeeze(-1)


def select_phrases(
    text: str,
    token_offsets: Sequence[tuple[int, int]],
    logits: Tensor,
    threshold: float = DEFAULT_THRESHOLD,
) -> list[tuple[int, int]]:
    """Return the words that the selector chooses, joined into phrases.

    A word's score is the mean probability of the tokens that overlap it. Neighbouring words at or
    above the threshold are one phrase if only white space is between them.

    Args:
        text: the answer.
        token_offsets: for each token (start, end) in code points of ``text``.
        logits: (T,), the selector's.
        threshold: in 0..1.

    Returns:
        (start, end) of each phrase in code points, in the order of the text.

    Raises:
        ValueError: there are not as many offsets as logits.
    """
    if len(token_offsets) != len(logits):
        raise ValueError(f"{len(token_offsets)} token offsets for {len(logits)} logits")
    selection = PhraseSelection(threshold)
    return selection.add(text, token_offsets, logits, is_complete=True)


class PhraseSelection:
    """What ``select_phrases`` finds in a text that grows, each phrase as soon as it is certain.

    The last word may still grow, and a phrase is extended by selected words that follow it. Each
    word is read once, however long the text becomes.

    Args:
        threshold: in 0..1.
    """

    def __init__(self, threshold: float = DEFAULT_THRESHOLD) -> None:
        self._threshold = threshold
        self._read_end = 0
        """Where the last word ends that was read."""
        self._next_token = 0
        """The first token that the next word may overlap."""
        self._open: tuple[int, int] | None = None
        """The phrase that selected words may still extend."""
        self._open_token = 0
        """Its first token."""

    @property
    def first_token(self) -> int:
        """The first token of the phrases that are not returned yet."""
        return self._next_token if self._open is None else self._open_token

    def add(
        self,
        text: str,
        token_offsets: Sequence[tuple[int, int]],
        logits: Tensor,
        is_complete: bool = False,
    ) -> list[tuple[int, int]]:
        """Return the phrases that are new and that no continuation of the text changes.

        Args:
            text: so far, which earlier texts are the beginning of.
            token_offsets: of the tokens from ``first_token`` on, in code points of ``text``.
            logits: of the tokens from ``first_token`` on; those of the last may be missing.
            is_complete: nothing follows.

        Returns:
            (start, end) of each phrase in code points, in the order of the text.
        """
        first_token = self.first_token
        scored_end = len(text)
        if len(token_offsets) > len(logits):
            scored_end = min(scored_end, token_offsets[len(logits)][0])
        probabilities: list[float] = logits.float().sigmoid().tolist()
        found: list[tuple[int, int]] = []
        certain_end = len(text)
        for word in WORD_PATTERN.finditer(text, self._read_end):
            following = text[word.end() : word.end() + 2]
            may_grow = not is_complete and (not following or following in WORD_JOINERS)
            if may_grow or word.end() > scored_end:
                certain_end = word.start()
                break
            tokens = self._find_tokens(word.span(), token_offsets, first_token)
            scores = [probabilities[token - first_token] for token in tokens]
            is_selected = bool(scores) and sum(scores) / len(scores) >= self._threshold
            if self._open is not None:
                start, end = self._open
                if is_selected and text[end : word.start()].isspace():
                    self._open = (start, word.end())
                    continue
                found.append(self._open)
                self._open = None
            if is_selected:
                self._open, self._open_token = word.span(), tokens[0]
        if self._open is not None and (is_complete or text[self._open[1] : certain_end].strip()):
            found.append(self._open)
            self._open = None
        return found

    def _find_tokens(
        self, word: tuple[int, int], token_offsets: Sequence[tuple[int, int]], first_token: int
    ) -> list[int]:
        """Return the tokens that overlap the word, which is then read."""
        tokens = []
        self._read_end = word[1]
        for token in range(self._next_token, first_token + len(token_offsets)):
            start, end = token_offsets[token - first_token]
            if start >= word[1]:
                break
            if end <= word[1]:
                self._next_token = token + 1
            if max(start, word[0]) < min(end, word[1]):
                tokens.append(token)
        return tokens
