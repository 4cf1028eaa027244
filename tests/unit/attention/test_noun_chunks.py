"""Noun chunks that may mean something in the picture."""

import pytest

from flmm.attention.noun_chunks import find_noun_chunks


@pytest.mark.parametrize(
    ("text", "chunks"),
    [
        ("A red cat sits on the grass.", ["A red cat", "the grass"]),
        ("It is next to two dogs and they see him.", ["two dogs"]),
        ("The image shows a dog in this photo of the house.", ["a dog", "the house"]),
        ("These pictures show a picture frame.", ["a picture frame"]),
        ("A cat sits in front of a house, next to a box.", ["A cat", "a house", "a box"]),
        ("A man on the left, with a dog on top of a car.", ["A man", "a dog", "a car"]),
        ("There is a kite in the upper right side of the picture.", ["a kite"]),
        ("The front of the house is red.", ["The front", "the house"]),
        ("🐈‍⬛ The old dog waits at the cafe\u0301.", ["The old dog", "the cafe\u0301"]),
        ("It looks at it, and 🐈‍⬛ a dog waits there.", ["a dog"]),
        ("🐈‍⬛", []),
        ("red cat", ["red cat"]),
        ("", []),
    ],
)
def test_noun_chunks(text: str, chunks: list[str]) -> None:
    spans = find_noun_chunks(text)
    assert [text[start:end] for start, end in spans] == chunks
    assert spans == sorted(spans)
