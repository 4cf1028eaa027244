"""Phrases of a text and their tokens, by offsets in code points."""

from collections import Counter
from collections.abc import Sequence

from torch import Tensor
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from flmm.attention.canonical_text import compose, find_canonically, is_mark
from flmm.errors import InputError, shorten
from flmm.lmm.detokenizer import Detokenizer
from flmm.lmm.prompt import Offsets
from flmm.types import PhraseSpan

_LONGEST_SEQUENCE = 8
"""More code points than are canonically equal to one, with what may choose its look."""


def compute_token_offsets(
    tokenizer: PreTrainedTokenizerBase, token_ids: Tensor, text: str
) -> Offsets:
    """Return each generated token's (start, end) in ``text``.

    ``token_ids`` (T,) and the ``text`` that the adapter decodes from them, or the beginning of it.
    A character of several tokens (a byte-level tokenizer's emoji) belongs to each of them, and a
    token may have several characters, also in a script without spaces, so that neighbours share it.
    A token that adds no character has an empty span (``Detokenizer.offsets``).

    Raises:
        ValueError: the tokens decode to another text.
    """
    detokenizer = Detokenizer(tokenizer)
    detokenizer.extend(token_ids.tolist())
    if not detokenizer.text.startswith(text):
        raise ValueError(f"the tokens decode to {detokenizer.text!r}, not to {text!r}")
    end = len(text)
    return tuple((min(start, end), min(stop, end)) for start, stop in detokenizer.offsets)


def find_mention(text: str, phrase: str, occurrence: int = 0) -> tuple[int, int]:
    """Return (start, end) of the phrase's ``occurrence``-th mention, counted from 0.

    Only mentions as whole words count; if there are none, parts of words do ("cat" in "cats", or a
    word in a script without spaces). A canonically equal text is a mention too: "é" may be one code
    point or two.

    Raises:
        InputError: the text has fewer mentions.
    """
    mentions = _find_mentions(text, phrase)
    if not 0 <= occurrence < len(mentions):
        times = "" if not mentions else f" {occurrence + 1} times (only {len(mentions)})"
        raise InputError(
            f"the phrase {phrase!r} is not in the text{times}: {shorten(text)!r};"
            " give phrases exactly as they stand there"
        )
    return mentions[occurrence]


class StableMentions:
    """The mentions of phrases in a text that grows, each as soon as no continuation changes it.

    A part of a word is never certain: a whole word may follow, which takes precedence. Only the
    text's end is searched, however long it becomes.

    Args:
        phrases: one that is listed again means its next mention.
    """

    def __init__(self, phrases: Sequence[str]) -> None:
        self._missing = Counter(compose(phrase) for phrase in phrases)
        self._searched = dict.fromkeys(self._missing, 0)
        """Where the next mention of each phrase may begin."""

    def add(self, text: str) -> list[tuple[int, int]]:
        """Return the (start, end) of new mentions, each what ``find_mention`` finds at last.

        Args:
            text: so far, which earlier texts are the beginning of.
        """
        found = []
        for phrase in +self._missing:
            while self._missing[phrase] and (mention := self._find_next(text, phrase)):
                found.append(mention)
                self._searched[phrase] = mention[1]
                self._missing[phrase] -= 1
        return found

    def _find_next(self, text: str, phrase: str) -> tuple[int, int] | None:
        searched = self._searched[phrase]
        rest = text[searched:]
        for start, end in find_canonically(rest, phrase):
            if end < len(rest) and _is_whole_word(rest, start, end):
                return searched + start, searched + end
        # No mention begins before a white space that is further back than the longest is.
        longest = _LONGEST_SEQUENCE * (len(phrase) + 1)
        self._searched[phrase] = max(
            searched, text.rfind(" ", searched, max(len(text) - longest, 0))
        )
        return None


def make_phrase_span(
    text: str, start: int, end: int, offsets: Offsets, first_token: int = 0
) -> PhraseSpan:
    """Return the span of ``text[start:end]`` with the tokens that share a character with it.

    ``offsets``: of the tokens from ``first_token`` on, none before which does so.
    """
    tokens = tuple(
        index
        for index, (first, last) in enumerate(offsets, first_token)
        if max(first, start) < min(last, end)
    )
    return PhraseSpan(text[start:end], start, end, tokens)


def find_phrase_spans(text: str, phrases: Sequence[str], offsets: Offsets) -> list[PhraseSpan]:
    """Return one span a phrase; a phrase that is listed again means its next mention.

    Raises:
        InputError: a phrase is not in the text, or not as often as it is listed.
    """
    counts: Counter[str] = Counter()
    spans = []
    for phrase in phrases:
        start, end = find_mention(text, phrase, counts[compose(phrase)])
        counts[compose(phrase)] += 1
        spans.append(make_phrase_span(text, start, end, offsets))
    return spans


def _find_mentions(text: str, phrase: str) -> list[tuple[int, int]]:
    """Return the mentions, without overlapping ones."""
    mentions = find_canonically(text, phrase)
    whole_words = [mention for mention in mentions if _is_whole_word(text, *mention)]
    return _drop_overlapping(whole_words or mentions)


def _drop_overlapping(mentions: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the mentions without those that overlap an earlier one."""
    kept: list[tuple[int, int]] = []
    for start, end in mentions:
        if not kept or start >= kept[-1][1]:
            kept.append((start, end))
    return kept


def _is_whole_word(text: str, start: int, end: int) -> bool:
    starts_inside = start > 0 and _is_letter(text[start - 1]) and _is_letter(text[start])
    ends_inside = end < len(text) and _is_letter(text[end - 1]) and _is_letter(text[end])
    return not starts_inside and not ends_inside


def _is_letter(character: str) -> bool:
    return character.isalnum() or character == "_" or is_mark(character)
