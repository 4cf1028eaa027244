"""A listener that raises an exception ends its own answer, and no other."""

import pytest
from contract_helpers import noise_picture
from generation_listeners import CollectingListener

from flmm.attention.answer_batch import AnswerBatch
from flmm.attention.batched_tracing import trace_generation_batch
from flmm.lmm.base import LMMAdapter
from flmm.lmm.families.llava import LlavaAdapter

TOKENS = 6


@pytest.fixture(scope="module")
def adapter() -> LMMAdapter:
    return LlavaAdapter.build_tiny()


@pytest.fixture
def listeners(adapter: LMMAdapter) -> list[CollectingListener]:
    questions = ("what is it?", "what is on the grass, and where?", "what?")
    return [
        CollectingListener(adapter.build_prompt(noise_picture(seed), question), TOKENS)
        for seed, question in enumerate(questions, 30)
    ]


def fail(*_: object) -> bool:
    raise ValueError("a listener's mistake")


def assert_is_whole(adapter: LMMAdapter, listener: CollectingListener) -> None:
    alone = adapter.generate(listener.prompt, TOKENS)
    assert listener.token_ids is not None
    assert listener.token_ids.equal(alone.token_ids)
    assert listener.trace is not None


@pytest.mark.parametrize("method", ["on_step", "on_end"])
def test_step_returns_who_failed(
    adapter: LMMAdapter,
    listeners: list[CollectingListener],
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    first, failing, last = listeners
    with AnswerBatch(adapter) as batch:
        batch.add(listeners)
        monkeypatch.setattr(failing, method, fail)
        failed = [pair for _ in range(TOKENS + 1) for pair in batch.step()]
        assert batch.num_answers == 0
    ((listener, error),) = failed
    assert listener is failing
    assert str(error) == "a listener's mistake"
    assert_is_whole(adapter, first)
    assert_is_whole(adapter, last)


def test_exception_is_raised_when_all_others_have_ended(
    adapter: LMMAdapter, listeners: list[CollectingListener], monkeypatch: pytest.MonkeyPatch
) -> None:
    failing, *others = listeners
    monkeypatch.setattr(failing, "on_end", fail)
    failing.max_new_tokens = 2
    with pytest.raises(ValueError, match="a listener's mistake"):
        trace_generation_batch(adapter, listeners)
    for listener in others:
        assert_is_whole(adapter, listener)
