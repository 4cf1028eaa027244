"""Which selected words cannot be grounded: words without a noun, and what an answer denies.

English only: of other languages, everything is kept.
"""

import re
from collections.abc import Iterable


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_DETERMINERS = _words(
    "a an the this that these those some any each every either neither no both all such what which"
    " whose many much few several another other others more most"
)
_PRONOUNS = _words(
    "i me my mine myself you your yours yourself yourselves he him his himself she her hers"
    " herself it its itself we us our ours ourselves they them their theirs themselves who whom"
    " one ones none nothing nobody something somebody someone anything anybody anyone everything"
    " everybody everyone there here"
)
_WORDS_BETWEEN = _words("of and or nor not is are was were")
_WORDS_WITHOUT_NOUN = _DETERMINERS | _PRONOUNS | _WORDS_BETWEEN
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_ARTICLE = r"(?:(?:an?|any|the)\s+)?"
_DENIAL_BEFORE = re.compile(
    rf"(?:\b(?:no|neither|nor|not|without)|n['’]t)\s+{_ARTICLE}"
    # "no red car or green bus", with the bus in question
    rf"(?:[\w'’-]+(?:\s+[\w'’-]+)?\s+n?or\s+{_ARTICLE})*$",
    re.IGNORECASE,
)
_DENIAL_WITHIN = re.compile(r"\W*(?:no|neither|nor|not)\s", re.IGNORECASE)
_MAX_DENIAL_CHARACTERS = 100
"""A denial is looked for in so many characters before a phrase."""


def keep_groundable(text: str, spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the spans that name something which the text does not deny.

    Left out are pronouns and determiners alone ("It", "There", "The") and phrases behind "no",
    "not", "neither", "nor" and "without" ("no dog", "without a hat"). Only what precedes a phrase
    counts, so that an answer's later words change nothing.

    Args:
        text: the answer, or its beginning.
        spans: (start, end) of phrases in code points.
    """
    return [(start, end) for start, end in spans if _is_groundable(text, start, end)]


def _is_groundable(text: str, start: int, end: int) -> bool:
    phrase = text[start:end]
    words = [word.lower() for word in _WORD.findall(phrase)]
    if words and _WORDS_WITHOUT_NOUN.issuperset(words):
        return False
    before = text[max(start - _MAX_DENIAL_CHARACTERS, 0) : start]
    return not (_DENIAL_WITHIN.match(phrase) or _DENIAL_BEFORE.search(before))
