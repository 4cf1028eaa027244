"""Texts in which canonically equal parts are found: "é" as one code point or as two."""

import unicodedata
from bisect import bisect_left
from collections.abc import Iterator
from functools import lru_cache

_VARIATION_SELECTORS = {0xFE0E: None, 0xFE0F: None}
"""Which choose how an emoji looks, and which hardly anybody types."""


def compose(text: str) -> str:
    """Return the text composed (NFC), without variation selectors; equal for canonically equal."""
    return unicodedata.normalize("NFC", text).translate(_VARIATION_SELECTORS)


def find_canonically(text: str, part: str) -> list[tuple[int, int]]:
    """Return (start, end) of each occurrence of ``part`` in ``text``, in its own code points.

    None begins or ends in the middle of a combining sequence, so "cafe" is not in "café".
    """
    composed, starts = _compose_sequences(text)
    wanted = compose(part)
    found = []
    position = composed.find(wanted) if wanted else -1
    while position >= 0:
        start, end = (_index(starts, at) for at in (position, position + len(wanted)))
        if start is not None and end is not None:
            found.append((start, end))
        position = composed.find(wanted, position + 1)
    return found


def is_mark(character: str) -> bool:
    """Return whether it belongs to the letter before it."""
    return unicodedata.category(character)[0] == "M"


@lru_cache(maxsize=4)
def _compose_sequences(text: str) -> tuple[str, list[tuple[int, int]]]:
    """Return the composed text, and where each combining sequence begins in it and in ``text``."""
    # So it is nearly always, and is asked for at every token of a streamed answer.
    if unicodedata.is_normalized("NFC", text) and not any(map(is_mark, text)):
        return text, [(index, index) for index in range(len(text) + 1)]
    composed = ""
    starts = []
    start = 0
    for sequence in _split_sequences(text):
        starts.append((len(composed), start))
        composed += compose(sequence)
        start += len(sequence)
    return composed, [*starts, (len(composed), start)]


def _split_sequences(text: str) -> Iterator[str]:
    """Yield the parts of a text that normalization leaves apart."""
    sequence = ""
    for character in text:
        # The letters of a decomposed Korean syllable are no marks, and are composed.
        joins = is_mark(character) or len(compose(sequence + character)) < len(
            compose(sequence) + compose(character)
        )
        if sequence and not joins:
            yield sequence
            sequence = ""
        sequence += character
    if sequence:
        yield sequence


def _index(starts: list[tuple[int, int]], position: int) -> int | None:
    """Return where the sequence at ``position`` of the composed text begins; None inside one."""
    index = bisect_left(starts, (position, 0))
    at, start = starts[index]
    return start if at == position else None
