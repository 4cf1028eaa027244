"""Phrases of a text and the tokens that make them, by offsets in code points."""

import unicodedata
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from flmm.errors import InputError
from flmm.lmm.prompt import Offsets
from flmm.types import PhraseSpan


def compute_token_offsets(
    tokenizer: PreTrainedTokenizerBase, token_ids: Tensor, text: str
) -> Offsets:
    """Where in ``text`` each generated token stands.

    ``token_ids`` (T,) and the ``text`` that the adapter decodes from them. A character that several
    tokens make (a byte-level tokenizer's emoji) belongs to each of them; a special token has an
    empty span.

    Raises:
        ValueError: ``text`` is not what the tokens say.
    """
    raw = _decode(tokenizer, token_ids)
    before = raw.find(text)
    if before < 0:
        raise ValueError(f"the tokens say {raw!r}, not {text!r}")
    spans = _offsets_from_encoding(tokenizer, token_ids, raw)
    if spans is None:
        spans = _offsets_from_prefixes(tokenizer, token_ids, raw)
    end = len(text)
    return tuple(
        (min(max(start - before, 0), end), min(max(stop - before, 0), end)) for start, stop in spans
    )


def find_mention(text: str, phrase: str, occurrence: int = 0) -> tuple[int, int]:
    """(start, end) of the phrase's ``occurrence``-th mention, counted from 0.

    Mentions as whole words count; only where there is none do parts of words ("cat" in "cats", or a
    word in a script without spaces).

    Raises:
        InputError: the text does not mention the phrase that often.
    """
    mentions = _find_mentions(text, phrase)
    if not 0 <= occurrence < len(mentions):
        times = "" if not mentions else f" {occurrence + 1} times (only {len(mentions)})"
        raise InputError(
            f"the phrase {phrase!r} is not in the text{times}: {text!r};"
            " give phrases exactly as they stand there"
        )
    start = mentions[occurrence]
    return start, start + len(phrase)


def find_stable_mention(text: str, phrase: str, occurrence: int = 0) -> tuple[int, int] | None:
    """What ``locate`` finds in any text that goes on from this one; None while that is open.

    A part of a word is open until the text ends, for a whole word may follow that goes before it.
    """
    whole = [
        at
        for at in _find_occurrences(text, phrase)
        if at + len(phrase) < len(text) and _is_whole_word(text, at, at + len(phrase))
    ]
    mentions = _drop_overlapping(whole, len(phrase))
    if occurrence >= len(mentions):
        return None
    return mentions[occurrence], mentions[occurrence] + len(phrase)


def make_phrase_span(text: str, start: int, end: int, offsets: Offsets) -> PhraseSpan:
    """The phrase ``text[start:end]`` and the tokens that share a character with it."""
    tokens = tuple(
        index for index, (first, last) in enumerate(offsets) if first < end and start < last
    )
    return PhraseSpan(text[start:end], start, end, tokens)


def find_phrase_spans(text: str, phrases: Sequence[str], offsets: Offsets) -> list[PhraseSpan]:
    """One span a phrase; a phrase that is listed again means its next mention.

    Raises:
        InputError: a phrase is not in the text, or not as often as it is listed.
    """
    listed: Counter[str] = Counter()
    spans = []
    for phrase in phrases:
        start, end = find_mention(text, phrase, listed[phrase])
        listed[phrase] += 1
        spans.append(make_phrase_span(text, start, end, offsets))
    return spans


def _find_mentions(text: str, phrase: str) -> list[int]:
    """Where mentions start, none overlapping another."""
    starts = _find_occurrences(text, phrase)
    whole = [at for at in starts if _is_whole_word(text, at, at + len(phrase))]
    return _drop_overlapping(whole or starts, len(phrase))


def _find_occurrences(text: str, phrase: str) -> list[int]:
    """Where the phrase's letters stand, whatever is around them."""
    starts: list[int] = []
    at = text.find(phrase) if phrase else -1
    while at >= 0:
        starts.append(at)
        at = text.find(phrase, at + 1)
    return starts


def _drop_overlapping(starts: Sequence[int], length: int) -> list[int]:
    """Without those that overlap an earlier one."""
    apart: list[int] = []
    for at in starts:
        if not apart or at >= apart[-1] + length:
            apart.append(at)
    return apart


def _is_whole_word(text: str, start: int, end: int) -> bool:
    starts_inside = start > 0 and _is_letter(text[start - 1]) and _is_letter(text[start])
    ends_inside = end < len(text) and _is_letter(text[end - 1]) and _is_letter(text[end])
    return not starts_inside and not ends_inside


def _is_letter(character: str) -> bool:
    # A combining mark belongs to the letter before it: "e" is not whole in "é" written as two.
    return character.isalnum() or character == "_" or unicodedata.category(character)[0] == "M"


def _decode(tokenizer: PreTrainedTokenizerBase, token_ids: Tensor) -> str:
    text = tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text


def _offsets_from_encoding(
    tokenizer: PreTrainedTokenizerBase, token_ids: Tensor, raw: str
) -> list[tuple[int, int]] | None:
    """The tokenizer's own offsets, where it would have cut the text into the same tokens."""
    if not tokenizer.is_fast:
        return None
    encoding = tokenizer(raw, add_special_tokens=False, return_offsets_mapping=True)
    if list(encoding["input_ids"]) != token_ids.tolist():
        return None
    return list(encoding["offset_mapping"])


def _offsets_from_prefixes(
    tokenizer: PreTrainedTokenizerBase, token_ids: Tensor, raw: str
) -> list[tuple[int, int]]:
    """What each token adds to the text. A model may cut words as its tokenizer never would."""
    special = torch.isin(token_ids, torch.tensor(tokenizer.all_special_ids)).tolist()
    spans = []
    done = 0
    for count in range(1, len(token_ids) + 1):
        prefix = _decode(tokenizer, token_ids[:count])
        start, done = done, max(done, common_prefix_length(prefix, raw))
        # Bytes of an unfinished character decode to something else than the text has there.
        unfinished = not special[count - 1] and (len(prefix) > done or done == start)
        spans.append((start, min(done + unfinished, len(raw))))
    return spans


def common_prefix_length(first: str, second: str) -> int:
    """How many letters two texts begin with together."""
    for index, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return index
    return min(len(first), len(second))
