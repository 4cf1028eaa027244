"""The plain text of an answer in Markdown, and where it stands in the answer."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_texts import MARKED_TEXTS

from flmm.attention.markdown_lines import read_plain_lines


@pytest.mark.parametrize(
    ("answer", "lines"),
    [
        ("A **red** car.", ["A red car."]),
        ("a\n- b\n  1. c\n\nd", ["a", "b", "c", "d"]),
        ("[a](<b c> 'd') e ![f](g) h", ["a e  h"]),
        ("a `` ` `` ` b` ` c `", ["a   b c"]),
        ("\\*a\\* &amp; b <br> c", ["*a* &amp; b ", "", "c"]),
        ("| a | b |\n|---|---|\n| a | a |\n| | c |", ["a", "a", "", "c"]),
        ("    a\n\n<p>\nb\n</p>", ["a", "", "b", ""]),
    ],
)
def test_plain_lines(answer: str, lines: list[str]) -> None:
    assert [line.text for line in read_plain_lines(answer)] == lines


@settings(max_examples=500, deadline=None)
@given(MARKED_TEXTS | st.text("ab *_`~[]()|-#>\\\n\r\t1.!<&;", max_size=40))
@example("`a\n\u2028\nb` c")
@example("`a\n\tb` c")
def test_each_letter_stands_where_it_is_said_to(answer: str) -> None:
    last = -1
    for line in read_plain_lines(answer):
        assert len(line.text) == len(line.positions)
        for letter, position in zip(line.text, line.positions, strict=True):
            assert answer[position] == letter or letter.isspace()
            # Of a tab in code, Markdown makes several spaces.
            assert position > last or (letter == " " and position == last)
            last = position
