"""Scores of answers: exact match, containment and ANLS."""

import random

import pytest

from flmm.evaluate.answers.scores import (
    contains_answer,
    exact_match,
    normalised_levenshtein_similarity,
)


@pytest.mark.parametrize(
    ("answer", "true", "exact", "contained"),
    [
        ("Red.", "red", True, True),
        ("The  red\ncar", "a red car", True, True),
        ("It is a **red car**!", "Red car", False, True),
        ("woman", "man", False, False),
        ("a man", "man", True, True),
        ("vitamin A", "A", False, True),
        ("A", "a", True, True),
        ("vitamin", "A", False, False),
        ("3.5", "35", False, False),
        ("$3.50.", "$3.50", True, True),
        ("50%", "50", False, False),
        ("-5", "5", False, False),
        ("ＴＯＴＡＬ", "total", True, True),
        ("red big car", "red car", False, False),
        ("", "red", False, False),
        ("anything", "?", False, False),
        ("?", "?", True, False),
        ("", "?", False, False),
    ],
)
def test_words_are_compared(answer: str, true: str, exact: bool, contained: bool) -> None:
    assert exact_match(answer, [true]) == exact
    assert contains_answer(answer, [true]) == contained


@pytest.mark.parametrize(
    ("answer", "accepted", "similarity"),
    [
        ("Red", ["red"], 1.0),
        ("  red  car ", ["Red car"], 1.0),
        ("redcar", ["red car"], 1 - 1 / 7),
        ("abcd", ["abxx"], 0.0),
        ("abcde", ["abcxx"], 1 - 2 / 5),
        ("It is red.", ["red"], 0.0),
        ("colour", ["hue", "color", "colours"], 1 - 1 / 7),
        ("😀b", ["😀c", "😀bc"], 1 - 1 / 3),
        ("", ["red"], 0.0),
        ("red", [], 0.0),
    ],
)
def test_anls(answer: str, accepted: list[str], similarity: float) -> None:
    assert normalised_levenshtein_similarity(answer, accepted) == pytest.approx(similarity)


def reference_distance(first: str, second: str) -> int:
    """The Levenshtein distance, row by row of its table."""
    row = list(range(len(second) + 1))
    for index, character in enumerate(first, 1):
        previous, row = row, [index]
        for column, other in enumerate(second, 1):
            replaced = previous[column - 1] + (character != other)
            row.append(min(previous[column] + 1, row[-1] + 1, replaced))
    return row[-1]


def test_distances_are_levenshteins() -> None:
    source = random.Random(0)
    for alphabet in ("ab", "abcd", "猫犬a", "😀é\u0301"):
        for longest in (4, 90):
            for _ in range(40):
                first, second = (
                    "".join(source.choices(alphabet, k=source.randint(1, longest)))
                    for _ in range(2)
                )
                distance = reference_distance(first, second) / max(len(first), len(second), 1)
                expected = 1 - distance if distance < 0.5 else 0.0
                assert normalised_levenshtein_similarity(first, [second]) == pytest.approx(expected)
