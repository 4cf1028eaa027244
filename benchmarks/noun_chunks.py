"""Recall and precision of the noun chunks of answers, against 200 marked ones.

    python benchmarks/noun_chunks.py
    python benchmarks/noun_chunks.py --misses development

The answers are in ``benchmarks/noun_chunks/``, a file for each half, with each phrase that can be
grounded between ⟦ and ⟧; docs/phrases.md has the rules by which they were marked. A span is right
if its start and its end are. ``--misses`` also prints what a half misses and what it has too much.
"""

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flmm.attention.noun_chunks import find_noun_chunks
from flmm.report.markdown import markdown_table

FOLDER = Path(__file__).with_suffix("")
HALVES = ("development", "held_out")
KINDS = ("prose", "markdown")


@dataclass(frozen=True)
class MarkedAnswer:
    """An answer and the (start, end) of its phrases, in code points."""

    kind: str
    text: str
    spans: frozenset[tuple[int, int]]


@dataclass(frozen=True)
class Comparison:
    """An answer and the spans that were found in it."""

    answer: MarkedAnswer
    found: frozenset[tuple[int, int]]


def read_marked_answers(half: str) -> Iterator[MarkedAnswer]:
    """Yield the answers of a half, which begin at lines such as "=== prose: street"."""
    content = (FOLDER / f"{half}.txt").read_text(encoding="utf-8")
    _, *parts = re.split(r"^=== (\w+): .*\n", content, flags=re.MULTILINE)
    for kind, marked in zip(parts[::2], parts[1::2], strict=True):
        yield read_marks(kind, marked.strip("\n"))


def read_marks(kind: str, marked: str) -> MarkedAnswer:
    """Return the answer without the marks, and where they were."""
    text = ""
    spans: set[tuple[int, int]] = set()
    start = 0
    for piece in re.split("([⟦⟧])", marked):
        if piece == "⟦":
            start = len(text)
        elif piece == "⟧":
            spans.add((start, len(text)))
        else:
            text += piece
    return MarkedAnswer(kind, text, frozenset(spans))


def compare(half: str) -> list[Comparison]:
    """Return what is found in each answer of a half."""
    return [
        Comparison(answer, frozenset(find_noun_chunks(answer.text)))
        for answer in read_marked_answers(half)
    ]


def recall_and_precision(comparisons: list[Comparison]) -> tuple[float, float]:
    """Return both for exact spans, 0 to 1."""
    right = sum(len(each.answer.spans & each.found) for each in comparisons)
    return (
        right / sum(len(each.answer.spans) for each in comparisons),
        right / sum(len(each.found) for each in comparisons),
    )


def print_misses(comparisons: list[Comparison]) -> None:
    """Print each answer with its missed (-) and its superfluous (+) spans."""
    for each in comparisons:
        text = each.answer.text
        missed = sorted(each.answer.spans - each.found)
        superfluous = sorted(each.found - each.answer.spans)
        if missed or superfluous:
            print(text)
            for sign, spans in (("-", missed), ("+", superfluous)):
                for start, end in spans:
                    print(f"    {sign} {text[start:end]!r}")


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description="Recall and precision of noun chunks.")
    parser.add_argument("--misses", choices=HALVES, help="also print the misses of this half")
    misses_of = parser.parse_args().misses
    halves = {half: compare(half) for half in HALVES}
    if misses_of:
        print_misses(halves[misses_of])
    rows = []
    groups = {**halves, "all": [each for half in halves.values() for each in half]}
    for name, comparisons in groups.items():
        for kinds in (*((kind,) for kind in KINDS), KINDS):
            part = [each for each in comparisons if each.answer.kind in kinds]
            recall, precision = recall_and_precision(part)
            phrases = sum(len(each.answer.spans) for each in part)
            kind = kinds[0] if len(kinds) == 1 else "both"
            rows.append(
                [name, kind, f"{len(part)}", f"{phrases}", f"{recall:.3f}", f"{precision:.3f}"]
            )
    print(markdown_table(["half", "kind", "answers", "phrases", "recall", "precision"], rows))


if __name__ == "__main__":
    main()
