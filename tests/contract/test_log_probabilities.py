"""Log probabilities of an answer's tokens equal those of the whole model's own output."""

import pytest
import torch
from contract_helpers import ANSWERS, noise_picture
from torch import Tensor
from transformers.modeling_utils import PreTrainedModel

from flmm.attention.log_probabilities import compute_log_probabilities
from flmm.attention.tracing import trace_generation, trace_text
from flmm.lmm.base import LMMAdapter
from flmm.lmm.logits import compute_logits


def test_log_probabilities_are_those_of_the_models_logits(
    adapter: LMMAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = adapter.build_prompt(noise_picture(), "what is it?", ANSWERS[0])
    trace = trace_text(adapter, prompt)
    inputs = adapter.collate([prompt], keep_pixels=True).inputs
    logits = adapter.model(**inputs).logits[0].float()
    token_ids = prompt.inputs["input_ids"][0, prompt.answer_start :]
    expected = logits.log_softmax(-1)[prompt.answer_start - 1 : -1].gather(1, token_ids[:, None])
    # The first token was predicted from the end of the question, which is not recorded.
    (every,) = compute_log_probabilities(adapter, [(trace, range(len(token_ids)))])
    assert expected.std() > 0.01, "equal probabilities would hide a mistake"
    torch.testing.assert_close(every, expected[1:, 0], rtol=1e-3, atol=1e-3)
    other = trace_text(adapter, adapter.build_prompt(noise_picture(), "what?", ANSWERS[1]))
    (every_other,) = compute_log_probabilities(adapter, [(other, range(len(other.token_ids)))])
    passes: list[int] = []

    def count_states(model: PreTrainedModel, states: Tensor) -> Tensor:
        passes.append(len(states))
        return compute_logits(model, states)

    monkeypatch.setattr("flmm.attention.log_probabilities.compute_logits", count_states)
    vocabulary_size = adapter.model.config.get_text_config().vocab_size
    monkeypatch.setattr(
        "flmm.attention.log_probabilities._MAX_LOGITS_PER_PASS", 2 * vocabulary_size
    )
    some, first, second, third = compute_log_probabilities(
        adapter, [(trace, [0, 2, 3]), (trace, [0]), (other, [3, 1]), (trace, [1])]
    )
    assert passes == [2, 2, 1]
    torch.testing.assert_close(some, every[[1, 2]])
    assert not len(first)
    torch.testing.assert_close(second, every_other[[2, 0]])
    torch.testing.assert_close(third, every[[0]])
    assert not len(compute_log_probabilities(adapter, [(trace, [0])])[0])


def test_said_tokens_are_the_likeliest(adapter: LMMAdapter) -> None:
    prompt = adapter.build_prompt(noise_picture(), "what is it?")
    trace, _ = trace_generation(adapter, prompt, 6)
    (said,) = compute_log_probabilities(adapter, [(trace, range(len(trace.token_ids)))])
    vocabulary_size = adapter.model.config.get_text_config().vocab_size
    # No token can be the likeliest with less than an even share.
    assert (said >= -torch.tensor(float(vocabulary_size)).log()).all()


def test_probabilities_are_known_where_the_last_layer_is_not_recorded(
    adapter: LMMAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = adapter.build_prompt(noise_picture(), "what?", ANSWERS[0])
    tokens = range(len(ANSWERS[0].split()))
    (expected,) = compute_log_probabilities(adapter, [(trace_text(adapter, prompt), tokens)])
    monkeypatch.setattr(adapter, "recorded_layers", adapter.recorded_layers[:-1])
    for trace in (trace_text(adapter, prompt), trace_generation(adapter, prompt, 3)[0]):
        assert len(trace.final_states) == len(trace.token_ids)
    (again,) = compute_log_probabilities(adapter, [(trace_text(adapter, prompt), tokens)])
    assert again.equal(expected)
