"""Scores of an answer against the accepted ones, by comparing texts.

Exact match and containment compare words (``normalise_words``); ANLS compares characters as its
paper says, without regard to case.
"""

import re
import unicodedata
from collections.abc import Sequence

ANLS_THRESHOLD = 0.5
"""An answer whose normalised distance is not below it counts as wrong."""

# Signs that belong to a value, such as "$", "%", "+", "-", "#", stay.
_OUTER_PUNCTUATION = ".,;:!?\"'`*_()[]{}<>“”‘’«»…、。，！？；：「」"
_ARTICLE = re.compile(r"^(the|an?) (?=.)")


def normalise_words(text: str) -> str:
    """Return the text's words, joined by blanks, in the form in which they are compared.

    Unicode NFKC, without case; punctuation at both ends of a word and an article before other words
    are left out ("The red car." is "red car", "A" stays "a", "$3.50" stays).
    """
    words = unicodedata.normalize("NFKC", text).casefold().split()
    stripped = (word.strip(_OUTER_PUNCTUATION) for word in words)
    return _ARTICLE.sub("", " ".join(word for word in stripped if word))


def exact_match(answer: str, accepted: Sequence[str]) -> bool:
    """Return whether an answer has the words of an accepted one and no others."""
    words = normalise_words(answer)
    return any(
        words == normalise_words(true) if words else answer.strip() == true.strip()
        for true in accepted
    )


def contains_answer(answer: str, accepted: Sequence[str]) -> bool:
    """Return whether the words of an accepted answer follow each other in the answer."""
    words = f" {normalise_words(answer)} "
    # An accepted answer without a word, such as "?", is in no answer.
    return any(true and f" {true} " in words for true in map(normalise_words, accepted))


def normalised_levenshtein_similarity(answer: str, accepted: Sequence[str]) -> float:
    """Return the answer's term in ANLS, in 0..1: 1 for an accepted answer, 0 for a wrong one.

    Of the accepted answers the highest of 1 - d where d < ``ANLS_THRESHOLD``, else 0; d is the
    Levenshtein distance over the longer text's length, in code points, without case, outer or
    repeated blanks (Biten et al., Scene Text Visual Question Answering, ICCV 2019, equation 1).
    """
    return max((_similarity(answer, true) for true in accepted), default=0.0)


def _similarity(answer: str, true: str) -> float:
    # Imported here since it takes seconds, which tables and judges need not wait for.
    from spacy.matcher.levenshtein import levenshtein

    first, second = (" ".join(text.casefold().split()) for text in (answer, true))
    length = max(len(first), len(second))
    distance = levenshtein(first, second) / length if length else 0.0
    return 1 - distance if distance < ANLS_THRESHOLD else 0.0
