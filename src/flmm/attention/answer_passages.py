"""The passages of an answer that are parsed: clauses, list items, and labels of what follows."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

from flmm.attention.markdown_lines import PlainLine, read_plain_lines

Role = Literal["text", "item", "label", "description"]
"""Text; what a list item or a table's row begins with; words before a colon or above a list; what
follows a label or stands in a further column of a table."""

Introduced = Literal["lines", "next", None]
"""What a passage may be a heading of: the lines below it, or the next passage."""

QUOTATION = "Quotation"
"""The word that stands in a passage for quoted writing, so that this is not parsed."""

_CLAUSE_END = re.compile(r"(?P<colon>:)(?=\s|$)|;(?=\s|$)|(?<=\s)(?P<dash>[–—-])(?=\s)")
_QUOTED = re.compile(
    r"""(?<![\w"])"[^"\n]+"|“[^”\n]+”|„[^“”\n]+[“”]|«[^»\n]+»|(?<!\w)‘[^’\n]+’(?!\w)"""
    r"""|(?<![\w'])'[^'\n]+'(?!\w)"""
)
# spaCy's tokenizer takes time with the square of a run's length.
_ENDLESS_PUNCTUATION = re.compile(r"(?<=[^\w\s]{20})[^\w\s]+")


@dataclass(frozen=True)
class Passage:
    """A part of an answer, as plain text."""

    text: str
    positions: tuple[int, ...]
    """Of each character of ``text``, in the answer, in code points."""
    role: Role
    introduces: Introduced = None

    def span_in_answer(self, start: int, end: int) -> tuple[int, int]:
        """Return the answer's (start, end) of a span of the passage that is not empty."""
        return self.positions[start], self.positions[end - 1] + 1


def read_passages(answer: str) -> Iterator[Passage]:
    """Yield the passages of an answer, in order, without Markdown (``read_plain_lines``).

    Clauses end at colons, semicolons and dashes. Quoted writing is one word, ``QUOTATION``.
    """
    lines = [line for line in read_plain_lines(answer) if line.text.strip()]
    for line, following in zip_longest(lines, lines[1:]):
        yield from _split_line(line, following)


def _split_line(line: PlainLine, following: PlainLine | None) -> Iterator[Passage]:
    """Yield a line's clauses, of which the first or only one may be a label."""
    text = line.text.rstrip()
    role: Role = "description" if line.is_further_cell else "item" if line.is_item else "text"
    introduces_lines = _introduces_lines(line, following)
    start = 0
    for end in [*_CLAUSE_END.finditer(text), None]:
        introduces: Introduced = None
        if end is None or end.end() == len(text):
            introduces = "lines" if introduces_lines else None
            is_label = introduces_lines and start == 0
        else:
            introduces = "next" if end["colon"] else None
            is_label = start == 0 and bool(end["colon"] or (end["dash"] and line.num_strong))
        stop = end.start() if end else len(text)
        passage = _make_passage(line, start, stop, "label" if is_label else role, introduces)
        if passage.text.strip():
            yield passage
        start = end.end() if end else len(text)
        role = "description" if is_label or role == "description" else "text"


def _introduces_lines(line: PlainLine, following: PlainLine | None) -> bool:
    """Return whether a line may be a heading: before a list, all in bold, or with a colon."""
    text = line.text.rstrip()
    if line.is_further_cell:
        return False
    if text.endswith(":") or following is None:
        return text.endswith(":")
    is_before_list = following.is_item and following.depth > line.depth
    return line.num_strong >= len(text) or is_before_list


def _make_passage(
    line: PlainLine, start: int, end: int, role: Role, introduces: Introduced
) -> Passage:
    """Return these characters of a line, with its quotations as one word each.

    Of a long run of punctuation, which some LMMs end in, only the beginning is kept.
    """
    text = line.text[start:end]
    positions = line.positions[start:end]
    for quoted in reversed(list(_QUOTED.finditer(text))):
        before, after = slice(quoted.start()), slice(quoted.end(), None)
        # A span that ends within the word takes the whole quotation.
        inner = (positions[quoted.start()], *[positions[quoted.end() - 1]] * (len(QUOTATION) - 1))
        text = text[before] + QUOTATION + text[after]
        positions = positions[before] + inner + positions[after]
    return Passage(*cut_endless_punctuation(text, positions), role, introduces)


def cut_endless_punctuation(text: str, positions: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """Return a text and the positions of its characters, of long runs only the beginnings."""
    for rest in reversed(list(_ENDLESS_PUNCTUATION.finditer(text))):
        text = text[: rest.start()] + text[rest.end() :]
        positions = positions[: rest.start()] + positions[rest.end() :]
    return text, positions
