"""Phrases of a question that mean something in the picture.

They differ from an answer's noun chunks: "what number" asks for something instead of naming it, and
"the cat next to the dog" means one cat, not a cat and a dog.
"""

from typing import TYPE_CHECKING

from flmm.attention.answer_passages import cut_endless_punctuation
from flmm.attention.noun_chunks import parse_english, trim_span
from flmm.attention.noun_lists import LOCATION_NOUNS, PICTURE_NOUNS
from flmm.attention.phrase_meaning import is_one_of

if TYPE_CHECKING:
    from spacy.tokens import Doc, Span, Token

_INTERROGATIVE_TAGS = frozenset({"WDT", "WP", "WP$", "WRB"})
# "How many cats" and "whose cat" ask for a number and a person, but they name the cats.
_NAMING_QUESTION_WORDS = frozenset({"how", "whose"})
_AMOUNT_WORDS = frozenset({"many", "much"})
# In "the colour of the car", the property has no mask; the car has.
_PROPERTY_NOUNS = frozenset(
    {
        "age", "amount", "brand", "breed", "color", "colour", "gender", "kind", "make", "material",
        "model", "name", "number", "price", "shape", "size", "sort", "species", "type",
    }
)  # fmt: skip


def find_question_phrases(question: str) -> list[tuple[int, int]]:
    """Return (start, end) of each thing that an English question names, in code points, in order.

    A referring expression is one phrase: "the cat in the upper left", "the sign above the door".
    What is asked for ("which animal") is a phrase only if there is no other one; of a property
    ("the colour of the car") only the owner is. Pronouns, the picture itself, and words for a
    location only are left out.
    """
    text, positions = cut_endless_punctuation(question, tuple(range(len(question))))
    document = parse_english(text)
    named: list[tuple[int, int]] = []
    asked_for: list[tuple[int, int]] = []
    for expression in _find_expressions(document):
        # Of "what kind of animal", only "animal" is the phrase.
        is_asked_for = _is_interrogative(expression[0])
        phrases, first = (asked_for, expression[-1]) if is_asked_for else (named, expression[0])
        start = _first_naming_word(first)
        span = document[start : expression[-1].end]
        start, end = trim_span(text, span.start_char, span.end_char)
        if start < end:
            phrases.append((positions[start], positions[end - 1] + 1))
    return named or asked_for


def _find_expressions(document: "Doc") -> list[list["Span"]]:
    """Return lists of noun chunks: the main one, then those that specify it ("next to the dog")."""
    expressions: list[list[Span]] = []
    for chunk in _find_chunks(document):
        if expressions and _continues_expression(chunk, expressions[-1]):
            expression = expressions[-1]
            if len(expression) == 1 and _is_property_of_next(expression[0]):
                expression.clear()
            expression.append(chunk)
        elif not (chunk.root.dep_ == "pobj" and chunk.root.lower_ in LOCATION_NOUNS):
            expressions.append([chunk])
    return expressions


def _find_chunks(document: "Doc") -> list["Span"]:
    """Return spaCy's noun chunks, and determiner phrases whose noun it tags otherwise."""
    from spacy.util import filter_spans  # loaded already, by parse_english

    chunks = list(document.noun_chunks)
    covered = {word.i for chunk in chunks for word in chunk}
    missed = [
        document[word.i : word.head.i + 1]
        for word in document
        if word.dep_ == "det" and word.head.i > word.i and word.i not in covered
    ]
    return [
        chunk
        for chunk in filter_spans(chunks + missed)
        if chunk.root.pos_ != "PRON" and not is_one_of(chunk.root, PICTURE_NOUNS)
    ]


def _continues_expression(chunk: "Span", expression: list["Span"]) -> bool:
    """Return whether the chunk belongs to the expression before it."""
    document = chunk.doc
    last = expression[-1]
    between = document[last.end : chunk.start]
    words = [word.lower_ for word in between]
    if _is_interrogative(expression[0]):
        return words == ["of"]
    if words == ["and"] and len(expression) > 1:
        return document[last.start - 1].lower_ == "between"
    return bool(words) and all(_is_connector(word) for word in between)


def _is_connector(word: "Token") -> bool:
    """Return whether the word may connect two chunks of one expression."""
    if word.pos_ in ("ADP", "ADV", "ADJ"):
        return word.lower_ != "than"
    # "the man wearing a hat", "the sign that hangs above the door"
    participle = word.tag_ in ("VBG", "VBN") and word.dep_ != "ROOT"
    return participle or "relcl" in (word.dep_, word.head.dep_)


def _is_interrogative(chunk: "Span") -> bool:
    """Return whether the chunk asks for something ("which animal") without naming it."""
    words = {word.lower_ for word in chunk if word.tag_ in _INTERROGATIVE_TAGS}
    return bool(words) and not words & _NAMING_QUESTION_WORDS


def _is_property_of_next(chunk: "Span") -> bool:
    is_property = chunk.root.lower_ in _PROPERTY_NOUNS and not _is_interrogative(chunk)
    return is_property and chunk.doc[chunk.end].lower_ == "of"


def _first_naming_word(chunk: "Span") -> int:
    """Return the index in the question of the chunk's first word after its question words."""
    question_words = [
        word.i for word in chunk if word.tag_ in _INTERROGATIVE_TAGS or word.lower_ in _AMOUNT_WORDS
    ]
    return max(question_words, default=chunk.start - 1) + 1
