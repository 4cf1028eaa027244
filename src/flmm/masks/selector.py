"""Which words of an answer can be grounded (paper section 3.5, step 6 of the method).

Letters: ``T`` tokens of the answer, ``D`` LLM width.
"""

import re
from collections.abc import Sequence

from torch import Tensor, nn

WORD_JOINERS = ("'", "’", "-")
"""What may stand between two letters of one word."""

WORD_PATTERN = re.compile(rf"\w+(?:[{re.escape(''.join(WORD_JOINERS))}]\w+)*")
"""A word: letters or digits, with hyphens and apostrophes inside it only."""

DEFAULT_THRESHOLD = 0.3
"""The paper's."""


class KeywordSelector(nn.Module):
    """Scores each token by its layer-weighted hidden state (paper section 3.5).

    Args:
        hidden_size: ``D``.
        width: of the one layer between.
    """

    def __init__(self, hidden_size: int, width: int = 256) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(hidden_size), nn.Linear(hidden_size, width), nn.GELU(), nn.Linear(width, 1)
        )

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(..., T, D) layer-weighted hidden states to (..., T) logits, above 0 for "groundable"."""
        logits: Tensor = self.layers(hidden_states)
        return logits.squeeze(-1)


def select_phrases(
    text: str,
    token_offsets: Sequence[tuple[int, int]],
    logits: Tensor,
    threshold: float = DEFAULT_THRESHOLD,
) -> list[tuple[int, int]]:
    """Joins the words that the selector picked into phrases.

    A word's score is the mean chance of the tokens that overlap it. Neighbouring words at or above
    the threshold make one phrase unless anything but blanks stands between them.

    Args:
        text: the answer.
        token_offsets: for each token (start, end) in code points of ``text``.
        logits: (T,), the selector's.
        threshold: in 0..1.

    Returns:
        (start, end) of each phrase in code points, in the order of the text.
    """
    chances: list[float] = logits.float().sigmoid().tolist()
    phrases: list[tuple[int, int]] = []
    open_phrase = False
    for word in WORD_PATTERN.finditer(text):
        scores = [
            chance
            for (start, end), chance in zip(token_offsets, chances, strict=True)
            if start < word.end() and end > word.start()
        ]
        if not scores or sum(scores) / len(scores) < threshold:
            open_phrase = False
            continue
        if open_phrase and text[phrases[-1][1] : word.start()].isspace():
            phrases[-1] = (phrases[-1][0], word.end())
        else:
            phrases.append((word.start(), word.end()))
        open_phrase = True
    return phrases


def select_stable_phrases(
    text: str,
    token_offsets: Sequence[tuple[int, int]],
    logits: Tensor,
    threshold: float = DEFAULT_THRESHOLD,
) -> list[tuple[int, int]]:
    """The phrases that ``select_phrases`` finds in any text that goes on from this one.

    A word at the end may still grow, and a phrase takes in the picked words that follow it.

    Args:
        text: the answer so far.
        token_offsets: of all tokens of ``text``.
        logits: of the first tokens; those of the last may be unknown yet.
        threshold: in 0..1.

    Returns:
        (start, end) of each phrase in code points, in the order of the text.
    """
    known = len(logits)
    unknown = min((start for start, _ in token_offsets[known:]), default=len(text))
    settled = len(text)
    for word in WORD_PATTERN.finditer(text):
        after = text[word.end() : word.end() + 2]
        grows = not after or after in WORD_JOINERS
        if grows or word.end() > unknown:
            settled = word.start()
            break
    phrases = select_phrases(text[:settled], token_offsets[:known], logits, threshold)
    return [(start, end) for start, end in phrases if text[end:settled].strip()]
