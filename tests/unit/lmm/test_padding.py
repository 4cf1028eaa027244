"""Which sequences share a batch, and how much of what is read is padding."""

import pytest

from flmm.lmm.padding import LengthBatcher, batch_in_order


def test_sequences_of_similar_length_share_a_batch() -> None:
    batcher = LengthBatcher(max_sequences=3, max_padding=0.1)
    assert list(batcher([30, 10, 10, 29, 10, 10, 10], 0)) == [[1, 2, 4], [5, 6], [3, 0]]
    assert batcher.num_tokens == 5 * 10 + 29 + 30
    assert batcher.num_padded_tokens == 5 * 10 + 2 * 30
    assert batcher.padding == pytest.approx(1 / 110)


def test_a_tenth_of_a_batch_may_be_padding() -> None:
    assert list(LengthBatcher(8, 0.1)([8, 10], 0)) == [[0, 1]]
    assert list(LengthBatcher(8, 0.1)([7, 10], 0)) == [[0], [1]]


def test_tokens_that_are_read_once_are_counted_once() -> None:
    batcher = LengthBatcher(max_sequences=8, max_padding=0.1)
    assert list(batcher([108, 110, 50], 48)) == [[2], [0, 1]]
    assert batcher.num_tokens == 48 + 2 + 60 + 62
    assert batcher.num_padded_tokens == 48 + 2 + 62 + 62


def test_nothing_was_read_yet() -> None:
    batcher = LengthBatcher(8, 0.1)
    assert list(batcher([], 0)) == []
    assert batcher.padding == 0


def test_batches_in_order() -> None:
    assert [list(batch) for batch in batch_in_order([5] * 5, 0, size=2)] == [[0, 1], [2, 3], [4]]
