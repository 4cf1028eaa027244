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
    """
    probabilities: list[float] = logits.float().sigmoid().tolist()
    phrases: list[tuple[int, int]] = []
    previous_selected = False
    for word in WORD_PATTERN.finditer(text):
        scores = [
            probability
            for (start, end), probability in zip(token_offsets, probabilities, strict=True)
            if max(start, word.start()) < min(end, word.end())
        ]
        if not scores or sum(scores) / len(scores) < threshold:
            previous_selected = False
            continue
        if previous_selected and text[phrases[-1][1] : word.start()].isspace():
            phrases[-1] = (phrases[-1][0], word.end())
        else:
            phrases.append((word.start(), word.end()))
        previous_selected = True
    return phrases


def select_stable_phrases(
    text: str,
    token_offsets: Sequence[tuple[int, int]],
    logits: Tensor,
    threshold: float = DEFAULT_THRESHOLD,
) -> list[tuple[int, int]]:
    """Return the phrases that ``select_phrases`` finds in any continuation of ``text``.

    The last word may still grow, and a phrase is extended by selected words that follow it.

    Args:
        text: the answer so far.
        token_offsets: of all tokens of ``text``.
        logits: of the first tokens; those of the last tokens may be missing.
        threshold: in 0..1.

    Returns:
        (start, end) of each phrase in code points, in the order of the text.
    """
    scored_end = min((start for start, _ in token_offsets[len(logits) :]), default=len(text))
    stable_end = len(text)
    for word in WORD_PATTERN.finditer(text):
        after = text[word.end() : word.end() + 2]
        may_grow = not after or after in WORD_JOINERS
        if may_grow or word.end() > scored_end:
            stable_end = word.start()
            break
    phrases = select_phrases(text[:stable_end], token_offsets[: len(logits)], logits, threshold)
    return [(start, end) for start, end in phrases if text[end:stable_end].strip()]
