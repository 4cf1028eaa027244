"""The text and the spans of tokens, in tokenizers that behave as those of real LMMs."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tokenizers import byte_level, composing, llama_like, word_ends, word_pieces
from transformers.tokenization_utils_tokenizers import PreTrainedTokenizerFast

from flmm.lmm.detokenizer import Detokenizer
from flmm.lmm.prompt import Offsets
from flmm.lmm.tiny_models import find_token_id

TOKENIZERS = [byte_level, composing, llama_like, word_ends, word_pieces]


def decode(tokenizer: PreTrainedTokenizerFast, token_ids: list[int]) -> str:
    text = tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text.strip()


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def offsets_of(tokenizer: PreTrainedTokenizerFast, token_ids: list[int]) -> Offsets:
    detokenizer = Detokenizer(tokenizer)
    detokenizer.extend(token_ids)
    return detokenizer.offsets


@pytest.mark.parametrize("build", TOKENIZERS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_text_of_any_tokens_is_decoded_and_never_taken_back(
    build: Callable[[], PreTrainedTokenizerFast], data: st.DataObject
) -> None:
    tokenizer = build()
    # Few bytes, so that some make characters.
    of_bytes = encode(tokenizer, "𠮷漢é 3 cats") if build is not word_pieces else [1]
    any_token = st.integers(0, len(tokenizer)) | st.sampled_from(of_bytes)
    token_ids = data.draw(st.lists(any_token, max_size=12))
    detokenizer = Detokenizer(tokenizer)
    stable = ""
    for count, token_id in enumerate(token_ids, start=1):
        detokenizer.add(token_id)
        text = decode(tokenizer, token_ids[:count])
        assert detokenizer.text == text
        assert detokenizer.stable_text.startswith(stable)
        stable = detokenizer.stable_text
        assert text.startswith(stable)
        spans = detokenizer.offsets
        assert len(spans) == count
        assert [start for start, _ in spans] == sorted(start for start, _ in spans)
        assert all(0 <= start <= end <= len(text) for start, end in spans)
        covered = {index for start, end in spans for index in range(start, end)}
        assert covered == set(range(len(text)))


def test_space_before_a_text_has_an_empty_span() -> None:
    token_ids = encode(llama_like(), "3 cats")
    assert llama_like().convert_ids_to_tokens(token_ids) == ["▁", "3", "▁cat", "s"]
    assert offsets_of(llama_like(), token_ids) == ((0, 0), (0, 1), (1, 5), (5, 6))


@pytest.mark.parametrize("token", ["<reserved>", "</s>"])
def test_special_token_has_an_empty_span_whether_listed_or_not(token: str) -> None:
    tokenizer = byte_level()
    special = find_token_id(tokenizer, token)
    assert (special in tokenizer.all_special_ids) == (token == "</s>")
    first, *others = encode(tokenizer, "a cat")
    assert offsets_of(tokenizer, [first, special, *others]) == ((0, 1), (1, 1), (1, 5))


def test_added_token_that_is_text_has_its_letters() -> None:
    tokenizer = byte_level()
    think, german = (find_token_id(tokenizer, token) for token in ("<think>", "für"))
    letter = find_token_id(tokenizer, "a")
    assert offsets_of(tokenizer, [think, letter]) == ((0, 7), (7, 8))
    # A byte-level decoder reads "ü" as a byte.
    assert decode(tokenizer, [german, letter]) == "f\ufffdra"
    assert offsets_of(tokenizer, [german, letter]) == ((0, 3), (3, 4))


def test_characters_of_a_run_of_bytes_are_told_when_the_run_ends() -> None:
    tokenizer = llama_like()
    token_ids = encode(tokenizer, "a é𠮷 cat")
    bytes_of_both = slice(3, 9)
    detokenizer = Detokenizer(tokenizer)
    told = []
    for token_id in token_ids:
        detokenizer.add(token_id)
        told.append(detokenizer.stable_text)
    # After "é" comes a byte with which the tokenizer decodes both to replacement characters.
    assert decode(tokenizer, token_ids[:-2]) == "a \ufffd\ufffd\ufffd\ufffd\ufffd"
    assert set(told[:-1]) == {"", "a"}
    assert told[-1] == "a é𠮷 cat"
    assert detokenizer.offsets[bytes_of_both] == ((2, 3), (2, 3), *[(3, 4)] * 4)


def test_broken_run_of_bytes_is_told_since_nothing_mends_it() -> None:
    detokenizer = Detokenizer(llama_like())
    detokenizer.extend(find_token_id(llama_like(), f"<0x{byte}>") for byte in ("A0", "E6"))
    assert detokenizer.stable_text == "\ufffd\ufffd"


def test_incomplete_character_of_a_byte_level_tokenizer_waits() -> None:
    detokenizer = Detokenizer(byte_level())
    token_ids = encode(byte_level(), "é𠮷")
    detokenizer.extend(token_ids[:4])
    assert (detokenizer.stable_text, detokenizer.text) == ("é", "é\ufffd")
    detokenizer.extend(token_ids[4:])
    assert detokenizer.stable_text == "é𠮷"


def test_white_space_that_may_be_the_last_is_not_told() -> None:
    # The wide space is stripped if it is the last, and so is the space before it.
    detokenizer = Detokenizer(byte_level())
    for token_id in encode(byte_level(), "a \u3000"):
        detokenizer.add(token_id)
        assert detokenizer.stable_text == "a"
    detokenizer.extend(encode(byte_level(), "b"))
    assert detokenizer.stable_text == "a \u3000b"
