"""Phrases of a text and their tokens, by offsets in code points."""

import unicodedata
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from flmm.errors import InputError
from flmm.lmm.prompt import Offsets
from flmm.types import PhraseSpan

_MAX_SHOWN = 300
"""Characters of a text that a message quotes."""


def compute_token_offsets(
    tokenizer: PreTrainedTokenizerBase, token_ids: Tensor, text: str
) -> Offsets:
    """Return each generated token's (start, end) in ``text``.

    ``token_ids`` (T,) and the ``text`` that the adapter decodes from them. A character of several
    tokens (a byte-level tokenizer's emoji) belongs to each of them; a special token has an empty
    span.

    Raises:
        ValueError: the tokens decode to another text.
    """
    raw = _decode(tokenizer, token_ids)
    before = raw.find(text)
    if before < 0:
        raise ValueError(f"the tokens decode to {raw!r}, not to {text!r}")
    spans = _offsets_from_encoding(tokenizer, token_ids, raw)
    if spans is None:
        spans = _offsets_from_prefixes(tokenizer, token_ids, raw)
    end = len(text)
    return tuple(
        (min(max(start - before, 0), end), min(max(stop - before, 0), end)) for start, stop in spans
    )


def find_mention(text: str, phrase: str, occurrence: int = 0) -> tuple[int, int]:
    """Return (start, end) of the phrase's ``occurrence``-th mention, counted from 0.

    Only mentions as whole words count; if there are none, parts of words do ("cat" in "cats", or a
    word in a script without spaces).

    Raises:
        InputError: the text has fewer mentions.
    """
    mentions = _find_mentions(text, phrase)
    if not 0 <= occurrence < len(mentions):
        shown = text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"
        times = "" if not mentions else f" {occurrence + 1} times (only {len(mentions)})"
        raise InputError(
            f"the phrase {phrase!r} is not in the text{times}: {shown!r};"
            " give phrases exactly as they stand there"
        )
    start = mentions[occurrence]
    return start, start + len(phrase)


def find_stable_mention(text: str, phrase: str, occurrence: int = 0) -> tuple[int, int] | None:
    """Return what ``find_mention`` finds in any continuation of ``text``; None if not certain yet.

    A part of a word is never certain: a whole word may follow, which takes precedence.
    """
    whole_words = [
        start
        for start in _find_occurrences(text, phrase)
        if start + len(phrase) < len(text) and _is_whole_word(text, start, start + len(phrase))
    ]
    mentions = _drop_overlapping(whole_words, len(phrase))
    if occurrence >= len(mentions):
        return None
    return mentions[occurrence], mentions[occurrence] + len(phrase)


def make_phrase_span(text: str, start: int, end: int, offsets: Offsets) -> PhraseSpan:
    """Return the span of ``text[start:end]`` with the tokens that share a character with it."""
    tokens = tuple(
        index for index, (first, last) in enumerate(offsets) if first < end and start < last
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
        start, end = find_mention(text, phrase, counts[phrase])
        counts[phrase] += 1
        spans.append(make_phrase_span(text, start, end, offsets))
    return spans


def _find_mentions(text: str, phrase: str) -> list[int]:
    """Return the starts of the mentions, without overlapping ones."""
    starts = _find_occurrences(text, phrase)
    whole_words = [start for start in starts if _is_whole_word(text, start, start + len(phrase))]
    return _drop_overlapping(whole_words or starts, len(phrase))


def _find_occurrences(text: str, phrase: str) -> list[int]:
    """Return the starts of the phrase in the text, also inside words."""
    starts: list[int] = []
    start = text.find(phrase) if phrase else -1
    while start >= 0:
        starts.append(start)
        start = text.find(phrase, start + 1)
    return starts


def _drop_overlapping(starts: Sequence[int], length: int) -> list[int]:
    """Return the starts without those that overlap an earlier one."""
    kept: list[int] = []
    for start in starts:
        if not kept or start >= kept[-1] + length:
            kept.append(start)
    return kept


def _is_whole_word(text: str, start: int, end: int) -> bool:
    starts_inside = start > 0 and _is_letter(text[start - 1]) and _is_letter(text[start])
    ends_inside = end < len(text) and _is_letter(text[end - 1]) and _is_letter(text[end])
    return not starts_inside and not ends_inside


def _is_letter(character: str) -> bool:
    # A combining mark belongs to the letter before it: "e" is no whole word in a decomposed "é".
    return character.isalnum() or character == "_" or unicodedata.category(character)[0] == "M"


def _decode(tokenizer: PreTrainedTokenizerBase, token_ids: Tensor) -> str:
    text = tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text


def _offsets_from_encoding(
    tokenizer: PreTrainedTokenizerBase, token_ids: Tensor, raw: str
) -> list[tuple[int, int]] | None:
    """Return the tokenizer's own offsets; None if it splits the text into other tokens."""
    if not tokenizer.is_fast:
        return None
    encoding = tokenizer(raw, add_special_tokens=False, return_offsets_mapping=True)
    if list(encoding["input_ids"]) != token_ids.tolist():
        return None
    return list(encoding["offset_mapping"])


def _offsets_from_prefixes(
    tokenizer: PreTrainedTokenizerBase, token_ids: Tensor, raw: str
) -> list[tuple[int, int]]:
    """Return the characters that each token adds, for tokens that the tokenizer would not give."""
    special = torch.isin(token_ids, torch.tensor(tokenizer.all_special_ids)).tolist()
    spans = []
    end = 0
    for count in range(1, len(token_ids) + 1):
        prefix = _decode(tokenizer, token_ids[:count])
        start, end = end, max(end, common_prefix_length(prefix, raw))
        # The bytes of an unfinished character decode to another character than the text's.
        unfinished = not special[count - 1] and (len(prefix) > end or end == start)
        spans.append((start, min(end + unfinished, len(raw))))
    return spans


def common_prefix_length(first: str, second: str) -> int:
    """Return the number of characters that both texts begin with."""
    for index, (left, right) in enumerate(zip(first, second, strict=False)):
        if left != right:
            return index
    return min(len(first), len(second))
