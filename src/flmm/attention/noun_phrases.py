"""Noun phrases of a parsed sentence, with or without a verb.

spaCy's own ``noun_chunks`` take all that depends on a noun and precedes it. Where a sentence has no
verb, that may be a prepositional phrase, which has a chunk of its own already, and the noun is left
out: of "In the image: a red car", they are only "the image".
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from flmm.attention.noun_lists import ACTION_WORDS, LOCATION_NOUNS

if TYPE_CHECKING:
    from spacy.tokens import Doc, Span, Token

_HEAD_RELATIONS = frozenset(
    {
        "ROOT", "nsubj", "nsubjpass", "dobj", "pobj", "pcomp", "dative", "attr", "oprd", "appos",
        "conj", "dep",
    }
)  # fmt: skip
_DETERMINERS = frozenset({"det", "poss"})
_MODIFIERS = frozenset({"amod", "nummod", "compound", "nmod", "quantmod", "predet"}) | _DETERMINERS
_INNER_MODIFIERS = _MODIFIERS | {"advmod", "npadvmod", "neg", "case"}

_WORDS_OF_CONTENT = frozenset({"NOUN", "PROPN", "VERB", "ADJ", "NUM"})


def find_noun_phrases(document: "Doc") -> Iterator["Span"]:
    """Yield each noun with the words to its left that belong to it, in the order of the nouns.

    A pronoun is none. Of a possessive that is without its noun ("it is the woman's"), the phrase
    ends with its "'s".
    """
    end_of_last = 0
    for word in document:
        if word.i >= end_of_last and _is_head(word):
            start = _find_first_word(word, _MODIFIERS)
            if start >= end_of_last:
                case = find_possessive_mark(word)
                end_of_last = case.i + 1 if case else _find_end_of_hyphenated(word)
                phrase = document[start:end_of_last]
                if _is_action(word):  # "a puppy playing", where spaCy takes it for a noun
                    phrase = document[start : word.i]
                if any(each.pos_ in _WORDS_OF_CONTENT for each in phrase):
                    yield phrase


def find_possessors(document: "Doc") -> Iterator["Span"]:
    """Yield "the woman's" of "the woman's hat", for each such possessive."""
    for word in document:
        case = find_possessive_mark(word)
        if case and word.dep_ == "poss" and word.pos_ in ("NOUN", "PROPN"):
            yield document[_find_first_word(word, _MODIFIERS) : case.i + 1]


def find_possessive_mark(word: "Token") -> "Token | None":
    """Return the "'s" of a noun."""
    return next((child for child in word.rights if child.tag_ == "POS"), None)


def has_determiner(word: "Token") -> bool:
    """Return whether the noun has an article, another determiner, a possessive, or a number."""
    return any(child.dep_ in ("det", "poss", "nummod") for child in word.lefts)


def find_first_conjunct(word: "Token") -> "Token":
    """Return the first of the words that are joined by "and"."""
    while word.dep_ == "conj":
        word = word.head
    return word


def _is_action(word: "Token") -> bool:
    return word.lower_ in ACTION_WORDS or word.tag_ == "VBG"


def _is_head(word: "Token") -> bool:
    is_noun = word.pos_ in ("NOUN", "PROPN")
    first = find_first_conjunct(word)
    if first.dep_ not in _HEAD_RELATIONS:
        is_joined = _is_joined_to_next(first) and word.i < _begin_last_conjunct(first)
        return is_joined and (is_noun or word is first)
    if _is_verb_by_mistake(word) or _is_compound_by_mistake(word) or _is_in_hyphenated(word):
        return False
    # "a blue one"; "the left rose" and "a steam engine" and "a sink and shower", where spaCy has
    # another tag
    is_one = word.lower_ in ("one", "ones") and any(word.lefts)
    relations = {child.dep_ for child in word.lefts}
    is_mistagged = "det" in relations and (word.pos_ == "VERB" or "compound" in relations)
    is_lone_conjunct = word.dep_ == "conj" and word.tag_ == "VB" and not any(word.children)
    return is_noun or is_one or is_mistagged or (is_lone_conjunct and first.pos_ == "NOUN")


def _find_first_word(word: "Token", relations: frozenset[str]) -> int:
    """Return the index of the first word that belongs to a noun, or to a word that modifies it."""
    first = word.i
    is_determined = False
    for child in reversed(list(word.lefts)):
        if child.dep_ == "punct":  # "a big, red car", "a T-shirt"
            continue
        if _is_joined_to_next(child):
            return min(first, _begin_last_conjunct(child))
        is_modifier = child.dep_ in relations and not _is_place_before_comma(child)
        if not (is_modifier or _is_compound_by_mistake(child)):
            break
        if is_determined and child.dep_ != "predet":
            break
        first = _find_first_word(child, _INNER_MODIFIERS)
        is_determined = child.dep_ in _DETERMINERS
    if _is_joined_to_next(word):
        # Its article is taken for that of the whole.
        own = [each.i for each in word.head.lefts if each.i < first and each.dep_ in relations]
        first = min(own, default=first)
    return first


def _is_joined_to_next(noun: "Token") -> bool:
    """Return whether a modifier is a thing of its own: the "grass" of "tall grass and flowers".

    In "salt and pepper shakers", "and" joins it to "pepper"; but in "a helmet and knee pads", the
    article cannot be that of the pads.
    """
    if noun.dep_ not in ("nmod", "compound") or noun.i > noun.head.i:
        return False
    relations = {child.dep_ for child in noun.rights}
    is_several = noun.head.tag_ in ("NNS", "NNPS")
    is_of_one = is_several and any(word.lower_ in ("a", "an") for word in noun.head.lefts)
    is_before_comma = noun.pos_ == "NOUN" and noun.nbor().text == ","
    is_before_and = "cc" in relations and ("conj" not in relations or is_of_one)
    return is_before_comma or is_before_and


def _begin_last_conjunct(noun: "Token") -> int:
    """Return the index after the last "and" or comma between a noun and that which it modifies."""
    between = noun.doc[noun.i : noun.head.i]
    # The parser may take another word for the "and".
    ends = (word.i + 1 for word in between if word.pos_ in ("CCONJ", "PUNCT"))
    return max(ends, default=noun.i + 1)


def _is_place_before_comma(word: "Token") -> bool:
    """Return whether the word ends what precedes the sentence: "At the top, white clouds"."""
    return word.lower_ in LOCATION_NOUNS and word.nbor().text == ","


def _is_compound_by_mistake(noun: "Token") -> bool:
    """Return whether the noun is taken for the subject of the next one ("the company logo")."""
    is_next = noun.i + 1 == noun.head.i
    is_before_noun = is_next and noun.head.pos_ in ("NOUN", "PROPN")
    return noun.dep_ == "nsubj" and is_before_noun and not _is_verb_by_mistake(noun.head)


def _is_verb_by_mistake(noun: "Token") -> bool:
    """Return whether the noun is the verb of "the cat and the dog sleep" or of "a man skis"."""
    if has_determiner(noun):
        return False
    is_plural = noun.tag_ == "NNS"
    for subject in noun.lefts:
        is_several = any(child.dep_ == "conj" for child in subject.rights)
        is_single = any(child.lower_ in ("a", "an") for child in subject.lefts)
        if subject.dep_ == "nsubj" and (is_several or (is_single and is_plural)):
            return True
    return False


def _is_in_hyphenated(noun: "Token") -> bool:
    """Return whether the noun is the "art" of "a state-of-the-art kitchen"."""
    return noun.dep_ == "pobj" and noun.head.i < noun.i and noun.head.nbor().text == "-"


def _find_end_of_hyphenated(word: "Token") -> int:
    """Return the index after the word, or after the hyphenated one that it begins ("x-axis")."""
    document = word.doc
    last = word.i
    while (
        last + 2 < len(document)
        and document[last + 1].text == "-"
        and not document[last].whitespace_
        and not document[last + 1].whitespace_
    ):
        last += 2
    return last + 1
