import itertools
import re
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flmm.masks.selector import KeywordSelector, PhraseSelection, select_phrases


def offsets(text: str) -> list[tuple[int, int]]:
    """Return the offsets of one token a word, with the space before it, and one a sign."""
    return [match.span() for match in re.finditer(r"\s?\w+|[^\w\s]", text)]


def phrases(text: str, keywords: set[str], threshold: float = 0.3) -> list[str]:
    spans = offsets(text)
    logits = torch.tensor([4.0 if text[a:b].strip() in keywords else -4.0 for a, b in spans])
    return [text[a:b] for a, b in select_phrases(text, spans, logits, threshold)]


def test_neighbouring_words_become_one_phrase() -> None:
    text = "There is a small cat on the mat"
    assert phrases(text, {"small", "cat", "the", "mat"}) == ["small cat", "the mat"]


def test_punctuation_separates_phrases() -> None:
    assert phrases("a cat, dog (bird)", {"cat", "dog", "bird", ","}) == ["cat", "dog", "bird"]


def test_nothing_selected_gives_nothing() -> None:
    assert phrases("It is fine.", set()) == []
    assert select_phrases("", [], torch.zeros(0)) == []


def test_words_score_is_the_mean_of_its_tokens() -> None:
    text = "giraffe"
    spans = [(0, 3), (3, 7)]
    logits = torch.tensor([0.8, 0.3]).logit()
    assert select_phrases(text, spans, logits, threshold=0.54) == [(0, 7)]
    assert select_phrases(text, spans, logits, threshold=0.56) == []


def test_hyphens_and_apostrophes_stay_inside_a_word() -> None:
    text = "the dog's ice-cream"
    spans = [(0, 3), (3, 9), (9, 19)]
    logits = torch.tensor([-4.0, 4.0, 4.0])
    assert [text[a:b] for a, b in select_phrases(text, spans, logits)] == ["dog's ice-cream"]


def test_tokens_without_text_are_ignored() -> None:
    assert select_phrases("cat", [(0, 0), (0, 3), (3, 3)], torch.tensor([-9.0, 4.0, -9.0])) == [
        (0, 3)
    ]


def test_token_without_text_inside_a_word_is_ignored() -> None:
    logits = torch.tensor([4.0, -9.0, 4.0])
    assert select_phrases("cat", [(0, 1), (1, 1), (1, 3)], logits, threshold=0.9) == [(0, 3)]


@pytest.mark.parametrize("word", ["हिन्दी", "cafe\u0301", "می\u200cخواهم", "½", "ice-cre\u0301me"])
def test_word_keeps_its_combining_marks(word: str) -> None:
    text = f"x {word}, x"
    spans = [(0, 1), (1, 2 + len(word)), (2 + len(word), len(text))]
    assert select_phrases(text, spans, torch.tensor([-4.0, 4.0, -4.0])) == [(2, 2 + len(word))]


def test_mark_of_a_sign_is_no_word() -> None:
    assert select_phrases("❤\ufe0f", [(0, 2)], torch.tensor([4.0])) == []


def test_offsets_count_code_points() -> None:
    text = "🐈 schläft"
    assert select_phrases(text, [(0, 1), (1, 9)], torch.tensor([4.0, 4.0])) == [(2, 9)]


def test_offsets_and_logits_of_different_length_raise() -> None:
    with pytest.raises(ValueError, match="1 token offsets for 2 logits"):
        select_phrases("cat", [(0, 3)], torch.zeros(2))


def test_selector_learns_from_hidden_states() -> None:
    torch.manual_seed(0)
    selector = KeywordSelector(8, width=16)
    states = torch.randn(64, 8)
    truth = (states[:, 0] > 0).float()
    optimizer = torch.optim.Adam(selector.parameters(), lr=0.03)
    for _ in range(60):
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(selector(states), truth)
        torch.autograd.backward(loss)
        optimizer.step()
    assert ((selector(states) > 0) == truth.bool()).float().mean() > 0.95


@given(st.lists(st.tuples(st.text("ab'- ,", min_size=1, max_size=4), st.booleans()), max_size=12))
def test_stable_phrases_are_the_first_of_the_whole_text(tokens: list[tuple[str, bool]]) -> None:
    spans = []
    text = ""
    for token, _ in tokens:
        spans.append((len(text), len(text) + len(token)))
        text += token
    logits = torch.tensor([4.0 if selected else -4.0 for _, selected in tokens])
    phrases = select_phrases(text, spans, logits)
    for delay in range(3):
        selection = PhraseSelection()
        found = []
        for count in range(len(tokens) + 1):
            prefix = text[: spans[count - 1][1] if count else 0]
            first, num_logits = selection.first_token, max(count - delay, 0)
            found += selection.add(prefix, spans[first:count], logits[first:num_logits])
            assert found == phrases[: len(found)]
        first = selection.first_token
        found += selection.add(text, spans[first:], logits[first:], is_complete=True)
        assert found == phrases


def test_phrase_is_certain_after_the_next_word() -> None:
    text = "There is a small cat on the mat"
    spans = offsets(text)
    logits = torch.tensor([4.0 if text[a:b].strip() in ("small", "cat") else -4.0
                           for a, b in spans])  # fmt: skip
    selection = PhraseSelection()

    def add(words: int, num_logits: int) -> list[tuple[int, int]]:
        first = selection.first_token
        text_so_far = text[: spans[words - 1][1]]
        return selection.add(text_so_far, spans[first:words], logits[first:num_logits])

    assert add(5, 5) == []  # "cat" may become "cats"
    assert add(6, 6) == []  # "on" may become "ones"
    assert add(7, 5) == []  # "on" has no logit yet, so it may belong to the phrase
    assert add(7, 6) == [(11, 20)]
    assert selection.first_token == 6
    comma = "a cat, a"
    first = offsets(comma)[:3]
    assert PhraseSelection().add(comma[:6], first, torch.tensor([4.0, 4.0])) == [(0, 5)]


def test_time_of_a_long_text_does_not_grow_with_its_square() -> None:
    words = ["a ", "cat, "] * 4000
    ends = list(itertools.accumulate(map(len, words)))
    spans = list(itertools.pairwise([0, *ends]))
    text = "".join(words)
    logits = torch.tensor([-4.0, 4.0] * 4000)
    selection = PhraseSelection()
    found = []
    started = time.perf_counter()
    for count, end in enumerate(ends, 1):
        first = selection.first_token
        assert count - first <= 3
        found += selection.add(text[:end], spans[first:count], logits[first:count])
    assert len(found) == 4000
    assert time.perf_counter() - started < 20
