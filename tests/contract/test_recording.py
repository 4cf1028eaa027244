"""Recorded rows equal those of eager attention, and recording changes nothing."""

import pytest
import torch
from contract_helpers import (
    ANSWERS,
    attention_implementations,
    conversation_history,
    count_forward_hooks,
    eager_reference,
    extend_prompt,
    noise_picture,
    visible_tokens,
)
from torch import Tensor
from transformers import AttentionInterface

from flmm.attention.eager import model_configs
from flmm.attention.generation_step import GenerationStep
from flmm.attention.recorder import AttentionRecorder, record
from flmm.attention.trace import Trace
from flmm.attention.tracing import trace_generation, trace_text, trace_texts
from flmm.lmm.base import LMMAdapter
from flmm.lmm.prompt import Prompt
from flmm.pictures.geometry import resample_to_grid


def assert_rows_are_those_of_eager_attention(
    adapter: LMMAdapter, prompt: Prompt, start: int, trace: Trace
) -> None:
    rows, states = eager_reference(adapter, prompt, start, len(trace.token_ids))
    assert rows.max() > 0.05, "near-uniform rows would hide a mistake"
    for views, recorded in zip(prompt.picture_views, trace.picture_attentions, strict=True):
        fine = views[-1].geometry
        maps = [
            resample_to_grid(rows[..., view.token_positions], view.geometry, fine) for view in views
        ]
        expected = torch.cat(maps)
        assert (recorded.attention - expected).abs().max() <= 1e-5
        assert not recorded.attention[expected == 0].any(), "a key that the layer does not see"
        assert recorded.geometry == fine
    torch.testing.assert_close(trace.hidden_states, states, rtol=1e-4, atol=1e-4)


def test_teacher_forced_rows_are_those_of_eager_attention(adapter: LMMAdapter) -> None:
    history = conversation_history() if adapter.supports_conversation else []
    prompts = [
        adapter.build_prompt(
            [noise_picture(20 + 9 * index, 30)] * index, "what?" * index, answer, history
        )
        for index, answer in enumerate(ANSWERS, 1)
    ]
    assert len({prompt.length for prompt in prompts}) == len(prompts), "nothing would be padded"
    for prompt, trace in zip(prompts, trace_texts(adapter, prompts), strict=True):
        assert_rows_are_those_of_eager_attention(adapter, prompt, prompt.answer_start, trace)
        assert trace.token_ids.equal(prompt.inputs["input_ids"][0, prompt.answer_start :])


def test_question_rows_are_those_of_eager_attention(adapter: LMMAdapter) -> None:
    prompt = adapter.build_prompt(noise_picture(), "what is on the grass?")
    trace = trace_texts(adapter, [prompt], part="question")[0]
    assert_rows_are_those_of_eager_attention(adapter, prompt, prompt.question_start, trace)


@pytest.mark.parametrize("pictures", [1, 2])
def test_generated_rows_are_those_of_eager_attention(adapter: LMMAdapter, pictures: int) -> None:
    prompt = adapter.build_prompt(
        [noise_picture(), noise_picture(90, 60)][:pictures], "what is it?"
    )
    trace, _ = trace_generation(adapter, prompt, 9)
    assert len(trace.token_ids) == 9, "the last token, which was never fed back, must have its row"
    extended = extend_prompt(adapter, prompt, trace.token_ids)
    assert_rows_are_those_of_eager_attention(adapter, extended, prompt.length, trace)


def test_recording_changes_no_bit_of_a_generation(adapter: LMMAdapter) -> None:
    prompt = adapter.build_prompt(noise_picture(), "what is it?")
    assert prompt.length > visible_tokens(adapter), "no layer would see less than all"
    inputs = adapter.collate([prompt], keep_pixels=True).inputs

    def run() -> tuple[Tensor, Tensor]:
        output = adapter.model.generate(  # type: ignore[operator]
            **inputs,
            max_new_tokens=8,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        return output.sequences, torch.stack(output.logits)

    alone_ids, alone_logits = run()
    with record(
        AttentionRecorder(adapter, prompt.image_token_positions[None]), adapter
    ) as recording:
        ids, logits = run()
    assert recording.num_recorded == 7
    assert torch.equal(alone_ids, ids)
    assert torch.equal(alone_logits, logits)


def test_recording_changes_no_bit_of_a_padded_forward(adapter: LMMAdapter) -> None:
    batch = adapter.collate(
        [adapter.build_prompt(noise_picture(), "what?", answer) for answer in ANSWERS],
        keep_pixels=True,
    )
    assert any(batch.left_padding)
    positions = torch.tensor([[batch.inputs["input_ids"].shape[1] - 1]] * len(ANSWERS))
    alone = adapter.model(**batch.inputs).logits
    with record(AttentionRecorder(adapter, batch.image_token_positions, positions), adapter):
        recorded = adapter.model(**batch.inputs).logits
    assert torch.equal(alone, recorded)


def test_single_and_batched_traces_agree(adapter: LMMAdapter) -> None:
    prompts = [
        adapter.build_prompt(noise_picture(20 + 40 * index, 70), "what?", answer)
        for index, answer in enumerate(ANSWERS)
    ]
    for prompt, batched in zip(prompts, trace_texts(adapter, prompts), strict=True):
        alone = trace_text(adapter, prompt)
        # Both are rounded to the nearest of 65,536 levels.
        torch.testing.assert_close(batched.attention, alone.attention, rtol=0, atol=2e-5)


def test_texts_about_one_picture_are_traced_like_each_alone(adapter: LMMAdapter) -> None:
    other = adapter.build_prompt(noise_picture(50, 40), "what?", "a dog")
    texts = [("where is it?", answer) for answer in ANSWERS] + [("what is this?", "grass")]
    prompts = [*adapter.build_prompts(noise_picture(), texts), other]
    for prompt, together in zip(prompts, trace_texts(adapter, prompts), strict=True):
        alone = trace_text(adapter, prompt)
        assert together.token_ids.equal(alone.token_ids)
        torch.testing.assert_close(together.attention, alone.attention, rtol=0, atol=2e-5)
        torch.testing.assert_close(
            together.hidden_states, alone.hidden_states, rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_model_is_restored_after_any_exception(
    adapter: LMMAdapter, error: type[BaseException]
) -> None:
    lookup, num_hooks = AttentionInterface.get_interface, count_forward_hooks(adapter)
    prompt = adapter.build_prompt(noise_picture(), "what is it?")

    def interrupt(_step: GenerationStep) -> None:
        assert AttentionInterface.get_interface is not lookup, "nothing was being recorded"
        assert count_forward_hooks(adapter) > num_hooks, "nothing was being recorded"
        raise error

    with pytest.raises(error):
        trace_generation(adapter, prompt, 6, interrupt)
    assert AttentionInterface.get_interface is lookup
    assert count_forward_hooks(adapter) == num_hooks
    assert adapter.recording_lock.acquire(blocking=False)
    adapter.recording_lock.release()


def test_recording_changes_no_setting_of_the_model(adapter: LMMAdapter) -> None:
    # Models may decide by their attention implementation's name what they compute.
    before = [config.to_dict() for config in model_configs(adapter.model)]
    names = attention_implementations(adapter.model)
    prompt = adapter.build_prompt(noise_picture(), "what is it?")
    with record(AttentionRecorder(adapter, prompt.image_token_positions[None]), adapter):
        assert attention_implementations(adapter.model) == names
        assert [config.to_dict() for config in model_configs(adapter.model)] == before
