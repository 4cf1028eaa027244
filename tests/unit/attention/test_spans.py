"""Phrases and their tokens, in any script."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tokenizers import composing, llama_like
from transformers.tokenization_utils_tokenizers import PreTrainedTokenizerFast

from flmm.attention.canonical_text import compose, is_mark
from flmm.attention.spans import (
    StableMentions,
    compute_token_offsets,
    find_mention,
    find_phrase_spans,
    make_phrase_span,
)
from flmm.errors import InputError
from flmm.lmm.prompt import Offsets
from flmm.lmm.tiny_models import tiny_tokenizer

TRICKY = "aé🐈‍⬛ \n\u0301ßﬁ漢字\u200dगि!?🇩🇪"
texts = st.text(
    # Without "<" no text holds a special token's name.
    st.sampled_from(TRICKY) | st.characters(exclude_categories=["Cs"], exclude_characters="<"),
    max_size=24,
).map(str.strip)


@functools.cache
def byte_level() -> PreTrainedTokenizerFast:
    return tiny_tokenizer("<image>")


def by_bytes(text: str, token_ids: list[int]) -> Offsets:
    """Return the characters that each byte-level token shares a byte with, counted byte by byte."""
    alphabet = {piece: byte for byte, piece in _byte_alphabet().items()}
    owner = [index for index, character in enumerate(text) for _ in character.encode()]
    spans, start = [], 0
    for token in byte_level().convert_ids_to_tokens(token_ids):
        length = len([alphabet[piece] for piece in token])
        spans.append((owner[start], owner[start + length - 1] + 1))
        start += length
    return tuple(spans)


def _byte_alphabet() -> dict[int, str]:
    """Return GPT-2's alphabet: printable bytes as they are, others as characters from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {byte: chr(byte) for byte in printable}
    return table | {byte: chr(256 + index) for index, byte in enumerate(others)}


@settings(max_examples=80, deadline=None)
@given(texts)
def test_offsets_of_the_tokenizers_own_tokens(text: str) -> None:
    token_ids = byte_level()(text, add_special_tokens=False)["input_ids"]
    assert compute_token_offsets(byte_level(), torch.tensor(token_ids), text) == by_bytes(
        text, token_ids
    )


@settings(max_examples=80, deadline=None)
@given(texts)
def test_offsets_of_single_byte_tokens(text: str) -> None:
    # A model may generate a text in other tokens than its tokenizer's.
    alphabet = _byte_alphabet()
    pieces = [alphabet[byte] for byte in text.encode()]
    token_ids = byte_level().convert_tokens_to_ids(pieces)
    assert isinstance(token_ids, list)
    assert compute_token_offsets(byte_level(), torch.tensor(token_ids), text) == by_bytes(
        text, token_ids
    )


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 300), max_size=16))
def test_offsets_of_any_tokens_lie_in_the_text(token_ids: list[int]) -> None:
    tokens = torch.tensor(token_ids, dtype=torch.long)
    text = byte_level().decode(token_ids, skip_special_tokens=True)
    assert isinstance(text, str)
    offsets = compute_token_offsets(byte_level(), tokens, text.strip())
    assert len(offsets) == len(token_ids)
    assert all(0 <= start <= end <= len(text.strip()) for start, end in offsets)
    starts = [start for start, _ in offsets]
    assert starts == sorted(starts)


def test_special_tokens_have_empty_spans() -> None:
    ids = byte_level()("a🐈", add_special_tokens=False)["input_ids"]
    pad = byte_level().pad_token_id
    assert isinstance(pad, int)
    offsets = compute_token_offsets(byte_level(), torch.tensor([ids[0], pad, *ids[1:]]), "a🐈")
    assert offsets == ((0, 1), (1, 1), *[(1, 2)] * 4)


def test_token_of_an_empty_span_inside_a_phrase_is_not_its_own() -> None:
    ids = byte_level()("a cat", add_special_tokens=False)["input_ids"]
    pad = byte_level().pad_token_id
    assert isinstance(pad, int)
    tokens = torch.tensor([ids[0], pad, *ids[1:]])
    offsets = compute_token_offsets(byte_level(), tokens, "a cat")
    others = tuple(index for index in range(len(tokens)) if index != 1)
    assert make_phrase_span("a cat", 0, 5, offsets).tokens == others


def test_space_before_a_text_is_no_part_of_its_first_phrase() -> None:
    ids = llama_like()("3 dogs", add_special_tokens=False)["input_ids"]
    assert llama_like().convert_ids_to_tokens(ids) == ["▁", "3", "▁dog", "s"]
    offsets = compute_token_offsets(llama_like(), torch.tensor(ids), "3 dogs")
    (span,) = find_phrase_spans("3 dogs", ["3 dogs"], offsets)
    assert span.tokens == (1, 2, 3)


def test_sentencepiece_character_of_several_tokens() -> None:
    ids = llama_like()("cat 🐈 cat", add_special_tokens=False)["input_ids"]
    offsets = compute_token_offsets(llama_like(), torch.tensor(ids), "cat 🐈 cat")
    assert make_phrase_span("cat 🐈 cat", 4, 5, offsets).tokens == (2, 3, 4, 5)
    assert [s.tokens for s in find_phrase_spans("cat 🐈 cat", ["cat", "cat"], offsets)] == [
        (0,),
        (6,),
    ]


def test_outer_white_space_is_not_counted() -> None:
    ids = byte_level()(" the cat \n", add_special_tokens=False)["input_ids"]
    offsets = compute_token_offsets(byte_level(), torch.tensor(ids), "the cat")
    spans = find_phrase_spans("the cat", ["the", "cat"], offsets)
    decoded = [byte_level().decode([ids[index] for index in span.tokens]) for span in spans]
    assert [text.strip() for text in decoded if isinstance(text, str)] == ["the", "cat"]


def test_text_that_the_tokens_do_not_decode_to_raises() -> None:
    with pytest.raises(ValueError, match="dog"):
        compute_token_offsets(byte_level(), torch.tensor([40]), "dog")


@settings(max_examples=80, deadline=None)
@given(texts, st.integers(0, 24), st.integers(1, 8))
def test_span_has_all_tokens_of_its_characters(text: str, start: int, length: int) -> None:
    part = text[start : start + length]
    if not part:
        return
    ids = byte_level()(text, add_special_tokens=False)["input_ids"]
    offsets = by_bytes(text, ids)
    try:
        first, last = find_mention(text, part)
    except InputError:
        # It begins or ends in the middle of a combining sequence.
        rest = text[start + length :]
        apart = compose(text[:start]) + compose(part) + compose(rest)
        assert is_mark(part[0]) or is_mark(rest[:1] or "x") or apart != compose(text)
        return
    assert compose(text[first:last]) == compose(part)
    span = make_phrase_span(text, first, last, offsets)
    overlapping = {
        token
        for token, (begin, end) in enumerate(offsets)
        if set(range(begin, end)) & set(range(first, last))
    }
    assert set(span.tokens) == overlapping
    assert span.tokens


def test_repeated_phrases_mean_their_next_mention() -> None:
    text = "the cat and the cat"
    offsets = tuple((index, index + 1) for index in range(len(text)))
    spans = find_phrase_spans(text, ["cat", "the cat", "cat", "the cat"], offsets)
    assert [(span.start, span.end) for span in spans] == [(4, 7), (0, 7), (16, 19), (12, 19)]
    assert all(text[span.start : span.end] == span.text for span in spans)
    assert spans[2].tokens == (16, 17, 18)


@pytest.mark.parametrize(
    ("text", "phrase", "occurrence", "start"),
    [
        ("the caterpillar and the cat", "cat", 0, 24),
        ("the caterpillar", "cat", 0, 4),
        ("cats, cats", "cat", 1, 6),
        ("cafe\u0301 e", "e", 0, 6),
        ("黒い猫がいる", "猫", 0, 2),
        ("🐈‍⬛🐈", "🐈", 1, 3),
        ("a a a", "a a", 0, 0),
        ("cat", "cat", 0, 0),
        ("(cat)", "cat", 0, 1),
        ("cat_food cat", "cat", 0, 9),
    ],
)
def test_find_mention(text: str, phrase: str, occurrence: int, start: int) -> None:
    assert find_mention(text, phrase, occurrence) == (start, start + len(phrase))


@pytest.mark.parametrize(
    ("text", "phrase", "found"),
    [
        ("a caf\u00e9.", "cafe\u0301", "caf\u00e9"),
        ("a cafe\u0301.", "caf\u00e9", "cafe\u0301"),
        ("\u1112\u1161\u11ab 국어", "한", "\u1112\u1161\u11ab"),
        ("한 국어", "\u1112\u1161\u11ab", "한"),
        ("5 \u212b", "5 \u00c5", "5 \u212b"),
        ("q\u0323\u0307", "q\u0307\u0323", "q\u0323\u0307"),
        ("ein ❤\ufe0f!", "❤", "❤\ufe0f"),
        ("ein ❤!", "❤\ufe0f", "❤"),
    ],
)
def test_canonically_equal_text_is_found(text: str, phrase: str, found: str) -> None:
    start, end = find_mention(text, phrase)
    assert text[start:end] == found
    assert StableMentions([phrase]).add(text + " x") == [(start, end)]
    offsets = tuple((index, index + 1) for index in range(len(text)))
    (span,) = find_phrase_spans(text, [phrase], offsets)
    assert (span.text, span.start, span.end) == (found, start, end)


@pytest.mark.parametrize(
    ("text", "phrase"),
    [("a cafe\u0301", "cafe"), ("\u1112\u1161\u11ab", "하"), ("कि", "क"), ("e\u0301", "\u0301")],
)
def test_part_of_a_combining_sequence_is_not_found(text: str, phrase: str) -> None:
    with pytest.raises(InputError, match="is not in the text"):
        find_mention(text, phrase)


def test_phrase_listed_in_both_forms_means_two_mentions() -> None:
    text = "caf\u00e9, cafe\u0301"
    offsets = tuple((index, index + 1) for index in range(len(text)))
    spans = find_phrase_spans(text, ["cafe\u0301", "caf\u00e9"], offsets)
    assert [(span.start, span.end) for span in spans] == [(0, 4), (6, 11)]


def test_decomposed_phrase_of_a_composing_tokenizer_is_found() -> None:
    ids = composing()("cafe\u0301 cat", add_special_tokens=False)["input_ids"]
    said = composing().decode(ids)
    assert said == "caf\u00e9 cat"
    offsets = compute_token_offsets(composing(), torch.tensor(ids), said)
    (span,) = find_phrase_spans(said, ["cafe\u0301"], offsets)
    assert (span.text, len(span.tokens)) == ("caf\u00e9", 5)


@pytest.mark.parametrize(
    ("phrase", "occurrence", "message"),
    [("dog", 0, "not in the text: 'a cat"), ("cat", 1, r"2 times \(only 1\)"), ("", 0, "''")],
)
def test_missing_phrase_raises_input_error(phrase: str, occurrence: int, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        find_mention("a cat", phrase, occurrence)
    assert repr(phrase) in str(caught.value)
    assert "'a cat'" in str(caught.value)
    assert "\n" not in str(caught.value)


@given(
    st.lists(st.text("ab \u0301", max_size=14), max_size=8),
    st.text("ab ", min_size=1, max_size=3).filter(str.strip),
    st.integers(1, 3),
)
def test_stable_mentions_are_those_of_the_whole_text(
    parts: list[str], phrase: str, times: int
) -> None:
    text = "".join(parts)
    mentions = StableMentions([phrase] * times)
    found = [mention for end in range(len(text) + 1) for mention in mentions.add(text[:end])]
    assert found == [find_mention(text, phrase, index) for index in range(len(found))]
    # The same as of the whole text at once.
    assert found == StableMentions([phrase] * times).add(text)


def test_mentions_far_apart_are_found() -> None:
    text = "a cat, " + "no such thing, " * 40 + "cat, caf\u00e9, cafe\u0301, cat."
    mentions = StableMentions(["cat", "cafe\u0301", "cat", "cafe\u0301", "cat", "cat"])
    found = [mention for end in range(len(text) + 1) for mention in mentions.add(text[:end])]
    assert [text[start:end] for start, end in found] == [
        "cat", "cat", "caf\u00e9", "cafe\u0301", "cat"
    ]  # fmt: skip


def test_mention_is_stable_with_the_character_after_it() -> None:
    mentions = StableMentions(["cat", "cat"])
    assert mentions.add("a cat") == []
    assert mentions.add("a cats") == []
    assert mentions.add("a cats, cat") == []
    assert mentions.add("a cats, cat.") == [(8, 11)]
    assert mentions.add("a cats, cat. The cat ") == [(17, 20)]
