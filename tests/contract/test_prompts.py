"""Prompts: which tokens are the pictures, the question and the answer."""

import pytest
import torch
from contract_helpers import ANSWERS, conversation_history, noise_picture

from flmm.attention.tracing import trace_texts
from flmm.errors import InputError
from flmm.lmm.base import LMMAdapter


def test_everything_is_frozen(adapter: LMMAdapter) -> None:
    assert not adapter.model.training
    assert not any(parameter.requires_grad for parameter in adapter.model.parameters())


def test_tiny_model_has_the_same_weights_each_time(adapter: LMMAdapter) -> None:
    key_heads = getattr(adapter.text_model.config, "num_key_value_heads", adapter.heads)
    again = type(adapter).build_tiny(key_heads < adapter.heads)
    for first, second in zip(adapter.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("pictures", [0, 1, 2, 3])
def test_prompt_marks_the_answer_and_the_question(adapter: LMMAdapter, pictures: int) -> None:
    shown = [noise_picture(30 + 11 * index, 40) for index in range(pictures)]
    prompt = adapter.build_prompt(shown, "where is it?", ANSWERS[1])
    token_ids = prompt.inputs["input_ids"][0]
    assert prompt.answer_offsets is not None
    assert adapter.decode(token_ids[prompt.answer_start :]) == ANSWERS[1]
    assert prompt.answer_start + len(prompt.answer_offsets) == prompt.length
    question = slice(prompt.question_start, prompt.question_start + len(prompt.question_offsets))
    assert adapter.decode(token_ids[question]).strip() == "where is it?"
    assert len(prompt.picture_views) == pictures


def test_a_question_after_others(adapter: LMMAdapter) -> None:
    if not adapter.supports_conversation:
        with pytest.raises(InputError, match="no conversation"):
            adapter.build_prompt(noise_picture(), "what?", history=conversation_history())
        return
    prompt = adapter.build_prompt(
        noise_picture(), "what is it?", "it is the cat", conversation_history()
    )
    token_ids = prompt.inputs["input_ids"][0]
    assert len(prompt.picture_views) == 2
    assert adapter.decode(token_ids[prompt.answer_start :]) == "it is the cat"
    question = slice(prompt.question_start, prompt.question_start + len(prompt.question_offsets))
    assert adapter.decode(token_ids[question]).strip() == "what is it?"
    # The same words are in the history; the question is the last occurrence.
    assert prompt.question_start > int((token_ids == adapter.image_token_id).nonzero().max())
    whole = adapter.decode(token_ids)
    assert whole.index("You point at things.") < whole.index("what is it?")
    assert whole.count("what is it?") == whole.count("it is the cat") == 2


def test_a_given_answer_continues_the_prompt(adapter: LMMAdapter) -> None:
    opening = adapter.build_prompt(noise_picture(), "where is it?")
    answered = adapter.build_prompt(noise_picture(), "where is it?", "there")
    assert opening.answer_start == opening.length == answered.answer_start
    assert answered.inputs["input_ids"][0, : opening.length].equal(opening.inputs["input_ids"][0])


def test_texts_about_the_same_pictures(adapter: LMMAdapter) -> None:
    shown = [noise_picture(), noise_picture(33, 97)]
    texts = [("what?", None), (" where is it? ", ANSWERS[0])]
    history = conversation_history() if adapter.supports_conversation else []
    together = adapter.build_prompts(shown, texts, history)
    for prompt, (question, answer) in zip(together, texts, strict=True):
        alone = adapter.build_prompt(shown, question, answer, history)
        assert prompt.inputs.keys() == alone.inputs.keys()
        assert all(prompt.inputs[name].equal(alone.inputs[name]) for name in alone.inputs)
        assert prompt.image_token_positions.equal(alone.image_token_positions)
        assert prompt.question == alone.question
        assert prompt.answer == alone.answer
    # Prompts that share their pixel tensors make a batch like any other.
    answered = adapter.build_prompts(shown, [("what?", answer) for answer in ANSWERS], history)
    for prompt, trace in zip(answered, trace_texts(adapter, answered), strict=True):
        (single,) = trace_texts(adapter, [prompt])
        torch.testing.assert_close(trace.hidden_states, single.hidden_states, rtol=0, atol=1e-3)


def test_views_are_distinct_image_tokens_in_picture_order(adapter: LMMAdapter) -> None:
    prompt = adapter.build_prompt([noise_picture(), noise_picture(33, 97)], "what?")
    token_ids = prompt.inputs["input_ids"][0]
    for views in prompt.picture_views:
        assert len(views) == adapter.views
        for view in views:
            assert tuple(view.token_positions.shape) == view.geometry.grid
            assert len(set(view.token_positions.flatten().tolist())) == view.token_positions.numel()
            if adapter.image_tokens_in_sequence:
                assert bool((token_ids[view.token_positions] == adapter.image_token_id).all())
    first, second = (views[-1].token_positions for views in prompt.picture_views)
    assert int(first.max()) < int(second.min())


@pytest.mark.parametrize("words", [("a {} b", None), ("what?", "a {} b")])
def test_placeholder_in_the_text_is_refused(
    adapter: LMMAdapter, words: tuple[str, str | None]
) -> None:
    question, answer = (
        None if text is None else text.format(adapter.placeholder) for text in words
    )
    assert question is not None
    with pytest.raises(InputError, match="stands for the picture"):
        adapter.build_prompt(noise_picture(), question, answer)
