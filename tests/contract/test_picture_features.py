"""The vision tower runs once for a picture, which changes no answer."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from contract_helpers import ANSWERS, noise_picture, text_modules

from flmm.attention.tracing import trace_generation, trace_texts
from flmm.lmm.base import LMMAdapter
from flmm.lmm.padding import group_for_padding


@contextmanager
def record_vision_modules(adapter: LMMAdapter) -> Iterator[list[str]]:
    """Collect the names of modules that run, without the LLM's and the language modelling head."""
    llm_modules = text_modules(adapter) | {adapter.model.get_output_embeddings()}  # type: ignore[no-untyped-call]
    ran: list[str] = []
    handles = [
        module.register_forward_hook(lambda m, _inputs, _output: ran.append(type(m).__name__))
        for module in adapter.model.modules()
        if module not in llm_modules and not list(module.children())
    ]
    yield ran
    for handle in handles:
        handle.remove()


def test_pictures_resized_before_their_processor_make_the_same_tensors(
    adapter: LMMAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = noise_picture(301, 403)
    found = adapter.build_prompt(picture, "what is it?").inputs
    monkeypatch.setattr("flmm.lmm.run_image_processor.resize_early", lambda _, picture: picture)
    expected = adapter.build_prompt(picture, "what is it?").inputs
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0)


def test_second_question_skips_the_vision_tower(adapter: LMMAdapter) -> None:
    picture = noise_picture(61, 47)
    with record_vision_modules(adapter) as first:
        adapter.generate(adapter.build_prompt(picture, "what is it?"), 2)
    assert first, "the probe sees no vision tower"
    with record_vision_modules(adapter) as later:
        trace_generation(adapter, adapter.build_prompt(picture, "where is the cat?"), 2)
        trace_texts(adapter, [adapter.build_prompt(picture, "what?", answer) for answer in ANSWERS])
    assert not later
    with record_vision_modules(adapter) as other:
        adapter.generate(adapter.build_prompt(noise_picture(62, 47), "what is it?"), 2)
    assert other


def test_answer_equals_the_one_from_pixels(adapter: LMMAdapter) -> None:
    for pictures in ([noise_picture()], [noise_picture(), noise_picture(90, 60)], []):
        prompt = adapter.build_prompt(pictures, "what is it?")
        from_pixels = adapter.model.generate(  # type: ignore[operator]
            **adapter.collate([prompt], keep_pixels=True).inputs, max_new_tokens=5, do_sample=False
        )
        expected = from_pixels[0, prompt.length :].tolist()
        if expected[-1] in adapter.eos_token_ids:
            expected.pop()
        for _ in range(2):
            assert adapter.generate(prompt, 5).token_ids.tolist() == expected


def test_each_prompt_of_a_batch_sees_its_own_pictures(adapter: LMMAdapter) -> None:
    prompts = [
        adapter.build_prompt([noise_picture(30 + 20 * index, 40)] * count, "what?", answer)
        for index, (count, answer) in enumerate(zip((2, 0, 1), ANSWERS, strict=True))
    ]
    for group in group_for_padding(adapter, prompts):
        batch = adapter.collate([prompts[index] for index in group])
        batch_logits = adapter.model(**batch.model_inputs).logits
        for row, padding, prompt in zip(
            batch_logits, batch.left_padding, batch.prompts, strict=True
        ):
            alone = adapter.model(**adapter.collate([prompt], keep_pixels=True).inputs).logits[0]
            torch.testing.assert_close(row[padding:], alone, rtol=1e-4, atol=1e-4)
