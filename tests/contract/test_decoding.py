"""Answers that join and leave a running batch are those of transformers' own ``generate``."""

import pytest
import torch
from contract_helpers import (
    noise_picture,
    visible_tokens,
)
from generation_listeners import CollectingListener

from flmm.attention.answer_batch import AnswerBatch
from flmm.attention.batched_tracing import trace_generation_batch
from flmm.attention.recorder import AttentionRecorder, record
from flmm.attention.trace import split_by_picture
from flmm.lmm.base import LMMAdapter
from flmm.lmm.decoding.support import find_unsupported_reason

TOKENS = 20
"""More than are recorded in one block."""


@pytest.fixture
def engine_adapter(adapter: LMMAdapter) -> LMMAdapter:
    """One of those that the engine runs."""
    if reason := find_unsupported_reason(adapter):
        pytest.skip(reason)
    return adapter


def staggered_listeners(adapter: LMMAdapter) -> list[CollectingListener]:
    """Return three of different lengths, about different pictures or none."""
    prompts = [
        adapter.build_prompt(noise_picture(), "what is it?"),
        adapter.build_prompt(noise_picture(33, 97), "what is on the grass, and where is the cat?"),
        adapter.build_prompt([], "what?"),
    ]
    limits = (9, TOKENS, 5)
    return [
        CollectingListener(prompt, limit) for prompt, limit in zip(prompts, limits, strict=True)
    ]


def test_answers_that_join_and_leave_are_those_of_generate(engine_adapter: LMMAdapter) -> None:
    listeners = staggered_listeners(engine_adapter)
    longest = max(listener.prompt.length for listener in listeners)
    assert longest > visible_tokens(engine_adapter), "every layer would see all"
    with AnswerBatch(engine_adapter) as batch:
        for listener in listeners:
            batch.add([listener])
            batch.step()
            batch.step()
        assert batch.num_answers == 3
        while batch.num_answers:
            batch.step()
    for listener in listeners:
        recorder = AttentionRecorder(engine_adapter, listener.prompt.image_token_positions[None])
        with record(recorder, engine_adapter):
            alone = engine_adapter.generate(listener.prompt, listener.max_new_tokens + 1)
        token_ids = alone.token_ids[: listener.max_new_tokens]
        assert listener.token_ids is not None
        assert listener.token_ids.equal(token_ids)
        assert listener.trace is not None
        states = recorder.hidden_states()[:, 0, : len(token_ids)]
        torch.testing.assert_close(listener.trace.hidden_states, states, rtol=1e-4, atol=1e-4)
        rows = split_by_picture(recorder.rows(0, len(token_ids)), listener.prompt)
        for recorded, expected in zip(listener.trace.picture_attentions, rows, strict=True):
            # Both are rounded to the nearest of 65,536 levels.
            torch.testing.assert_close(recorded.attention, expected.attention, rtol=0, atol=2e-5)


def test_prompt_that_cannot_be_read_disturbs_no_other(
    engine_adapter: LMMAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, _ = staggered_listeners(engine_adapter)
    with AnswerBatch(engine_adapter) as batch:
        batch.add([first])
        batch.step()

        def fail(*_: object, **__: object) -> None:
            raise torch.OutOfMemoryError

        for failing, name in ((engine_adapter.decoder_layers[-1], "forward"), (second, "on_step")):
            with monkeypatch.context() as broken:
                broken.setattr(failing, name, fail)
                with pytest.raises(torch.OutOfMemoryError):
                    batch.add([second])
            batch.step()
        batch.add([second])
        while batch.num_answers:
            batch.step()
    for listener in (first, second):
        alone = engine_adapter.generate(listener.prompt, listener.max_new_tokens)
        assert listener.token_ids is not None
        assert listener.token_ids.equal(alone.token_ids)
        assert listener.trace is not None
        assert listener.trace.attention.shape[2] == len(alone.token_ids)


def test_generation_settings_of_the_model_count(
    engine_adapter: LMMAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    listeners = staggered_listeners(engine_adapter)
    plain = engine_adapter.generate(listeners[1].prompt, TOKENS).token_ids
    settings = engine_adapter.model.generation_config
    monkeypatch.setattr(settings, "repetition_penalty", 1.9)
    monkeypatch.setattr(settings, "suppress_tokens", plain[:1].tolist())
    trace_generation_batch(engine_adapter, listeners)
    for listener in listeners:
        alone = engine_adapter.generate(listener.prompt, listener.max_new_tokens)
        assert listener.token_ids is not None
        assert listener.token_ids.equal(alone.token_ids)
        assert int(plain[0]) not in alone.token_ids
