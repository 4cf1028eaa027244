"""The judge's prompt, what its replies are read as, and its address."""

from pathlib import Path
from textwrap import indent

import pytest

from flmm.errors import InputError
from flmm.evaluate.answers.judge import PROMPT, Judge, read_score

DOCS = (Path(__file__).parents[4] / "docs" / "evaluation.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("Score: 1", 1.0),
        ("score: 0.75.", 0.75),
        ("**Score:** 0", 0.0),
        ("Score: **0.5**", 0.5),
        ("Both are red.\nScore: 0.9", 0.9),
        ("Score: 0.2\nOn reflection,\nScore: 0.4\n", 0.4),
        ("Score: 0.8/1", 0.8),
        ("Score: 1 out of 1", 1.0),
        ("Final score = .5", 0.5),
        (" 0.5 ", 0.5),
        ("1.", 1.0),
        ("<think>Score: 1? No.</think>\nScore: 0", 0.0),
        ("<think>Score: 1</think> I do not know.", None),
        ("Score: 8/10", None),
        ("Score: 10/10", None),
        ("Score: 1/10", None),
        ("Score: 80%", None),
        ("Score: 1 out of 10", None),
        ("Score: 0,8", None),
        ("Score: -1", None),
        ("Score: 2", None),
        ("Score: 1.5", None),
        ("The number on the cat is 1.", None),
        ("", None),
    ],
)
def test_scores_are_read(reply: str, score: float | None) -> None:
    assert read_score(reply) == score


def test_the_documents_have_the_prompt() -> None:
    assert indent(PROMPT, "    ") in DOCS


@pytest.mark.parametrize(
    ("url", "model", "message"),
    [
        ("localhost:8000", "m", "the judge's URL is 'localhost:8000'; give one such as"),
        ("http:///v1", "m", "the judge's URL is"),
        ("http://localhost:8000/v1", " ", "model has no name"),
    ],
)
def test_wrong_addresses_are_refused(url: str, model: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Judge(url, model)
