"""Selected words that are not grounded: no noun, or denied."""

import re

import pytest

from flmm.attention.groundable_phrases import keep_groundable
from flmm.attention.noun_chunks import find_noun_chunks


@pytest.mark.parametrize(
    ("marked", "kept"),
    [
        ("[It] is on [the grass].", ["the grass"]),
        ("[There] is [a pig] and [the] sun, and [both of them] see [some].", ["a pig"]),
        ("[The] is [They're] [It's] [🐈].", ["They're", "It's", "🐈"]),
        ("No, there is [no dog], but [a cat].", ["a cat"]),
        ("No, there is no [dog]. [The cat] sleeps.", ["The cat"]),
        ("There is no [red car] or [green bus], and [a tree].", ["a tree"]),
        ("It's not [a dog] but [a wolf].", ["a wolf"]),
        ("That isn’t [a dog]. Without [any hat], [a man] waits.", ["a man"]),
        ("[Neither the cat] nor [the dog] is near [the house].", ["the house"]),
        ("No: [a cat]. No, [the cat] is not [red].", ["a cat", "the cat"]),
        ("[The cat] is not wearing [a hat].", ["The cat", "a hat"]),
        ("[A nose] and [a note], without fear, [another dog]", ["A nose", "a note", "another dog"]),
        ("[Es] ist [kein Hund].", ["Es", "kein Hund"]),
    ],
)
def test_what_is_kept(marked: str, kept: list[str]) -> None:
    text = re.sub(r"[][]", "", marked)
    spans = []
    for number, mark in enumerate(re.finditer(r"\[([^]]*)\]", marked)):
        start = mark.start() - 2 * number
        spans.append((start, start + len(mark[1])))
    assert [text[start:end] for start, end in keep_groundable(text, spans)] == kept
    # The rest of the answer, which a stream does not know yet, changes nothing.
    for start, end in spans:
        assert keep_groundable(text, [(start, end)]) == keep_groundable(text[:end], [(start, end)])


def test_noun_chunks_leave_out_what_is_denied() -> None:
    text = "There is a cat and no dog on the grass, without a leash or collar."
    assert [text[a:b] for a, b in find_noun_chunks(text)] == ["a cat", "the grass"]
