"""Whether a noun phrase of an answer names something that can be pointed at in the picture."""

from typing import TYPE_CHECKING

from flmm.attention.answer_passages import QUOTATION
from flmm.attention.noun_lists import (
    ABSTRACT_NOUNS,
    AMOUNT_NOUNS,
    LOCATION_NOUNS,
    PHOTO_NOUNS,
    PICTURE_NOUNS,
    PLACE_NOUNS,
    REGION_NOUNS,
    REGION_WORDS,
)
from flmm.attention.noun_phrases import find_first_conjunct, has_determiner

if TYPE_CHECKING:
    from spacy.tokens import Span, Token

_DEFINITE = frozenset({"the", "this", "that", "these", "those"})
_SAYING_VERBS = frozenset({"say", "says", "saying"})
_READING_VERBS = frozenset({"read", "reads", "reading"})
_FACING_WORDS = frozenset({"at", "toward", "towards", "to", "from", "facing", "faces", "face"})


def names_something_visible(phrase: "Span", noun: "Token") -> bool:
    """Return whether the phrase, whose last noun is given, may have a mask."""
    return not (
        noun.text == QUOTATION
        or noun.like_url
        or (noun.like_num and noun.lower_ != "one")
        or _is_unit(noun)
        or not noun.text[0].isalpha()
        or _is_option(phrase)
        or is_one_of(noun, ABSTRACT_NOUNS | PLACE_NOUNS)
        or _is_picture_itself(phrase, noun)
        or _is_place(noun)
        or _is_amount(noun)
        or _is_camera_that_is_faced(phrase, noun)
        or _is_read_out(noun)
    )


def is_one_of(noun: "Token", nouns: frozenset[str]) -> bool:
    """Return whether the noun is in a list of singular nouns, also as "close-up" or "mid-air"."""
    word = noun.lower_
    forms = {word, word.removesuffix("s")}
    if word.endswith("ies"):
        forms.add(word.removesuffix("ies") + "y")
    before = noun.doc[max(noun.i - 2, 0) : noun.i].text.lower().split()
    if before:
        joined = before[-1].removesuffix("-") + word
        forms |= {joined, joined.removesuffix("s")}
    return not forms.isdisjoint(nouns)


def _is_picture_itself(phrase: "Span", noun: "Token") -> bool:
    if not is_one_of(noun, PICTURE_NOUNS):
        return False
    # "a calendar with a photo" and "two pictures on the wall" show others.
    first = find_first_conjunct(noun)
    is_held = first.dep_ == "pobj" and first.head.lower_ == "with"
    is_another = is_one_of(noun, PHOTO_NOUNS) and (is_held or noun.tag_ == "NNS")
    return not is_another or phrase[0].lower_ in _DEFINITE


def _is_place(noun: "Token") -> bool:
    modifiers = list(noun.lefts)
    if is_one_of(noun, REGION_NOUNS) and any(word.lower_ in REGION_WORDS for word in modifiers):
        return True
    if not is_one_of(noun, LOCATION_NOUNS):
        return False
    if any(word.dep_ == "compound" and word.lower_ not in REGION_WORDS for word in modifiers):
        return False  # "a tank top", "a shopping center"
    if noun.lower_ == "back" and any(word.dep_ == "poss" for word in modifiers):
        return False
    first = find_first_conjunct(noun)
    if first.dep_ == "pobj":
        return first.head.lower_ not in ("with", "without")
    return first.dep_ in ("ROOT", "nsubj", "nsubjpass") and not _has_visible_owner(noun)


def _has_visible_owner(noun: "Token") -> bool:
    return any(
        not is_one_of(owner, PICTURE_NOUNS)
        for word in noun.rights
        if word.lower_ == "of"
        for owner in word.rights
    )


def _is_amount(noun: "Token") -> bool:
    is_partitive = any(word.lower_ == "of" for word in noun.rights)
    return noun.lower_ in ("lot", "lots", "half", "none") or (
        is_partitive and is_one_of(noun, AMOUNT_NOUNS)
    )


def _is_option(phrase: "Span") -> bool:
    """Return whether the phrase is one letter, such as the "B" of "(B) a cat"."""
    return len(phrase.text) == 1 and phrase.text.isascii()


def _is_unit(noun: "Token") -> bool:
    """Return whether the noun stands directly behind a number ("5km")."""
    is_glued = noun.i > 0 and not noun.nbor(-1).whitespace_
    return is_glued and noun.nbor(-1).like_num


def _is_camera_that_is_faced(phrase: "Span", noun: "Token") -> bool:
    if noun.lower_ == "viewer":
        return True
    return phrase.text.lower() == "the camera" and noun.head.lower_ in _FACING_WORDS


def _is_read_out(noun: "Token") -> bool:
    """Return whether a sign says or reads the noun, which is therefore writing."""
    is_name = noun.pos_ == "PROPN" or noun.is_upper  # people read books
    is_written = noun.head.lower_ in _SAYING_VERBS or (
        noun.head.lower_ in _READING_VERBS and is_name
    )
    is_object = noun.dep_ in ("dobj", "oprd", "attr", "dep")
    return is_object and is_written and not has_determiner(noun)
