"""Texts about one picture take less work than each alone."""

import torch
from contract_helpers import noise_picture
from torch import nn

from flmm.attention.tracing import trace_texts
from flmm.lmm.base import LMMAdapter
from flmm.lmm.families.llava import LlavaAdapter
from flmm.lmm.families.paligemma import PaliGemmaAdapter


def count_tokens(adapter: LMMAdapter, answers: list[str]) -> int:
    """Return how many tokens the LLM's first layer processes."""
    counted = 0

    def count(_layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal counted
        counted += inputs[0].shape[0] * inputs[0].shape[1]

    handle = adapter.decoder_layers[0].register_forward_pre_hook(count)
    prompts = adapter.build_prompts(noise_picture(), [("what?", answer) for answer in answers])
    trace_texts(adapter, prompts)
    handle.remove()
    return counted


def test_common_beginning_is_read_once() -> None:
    adapter = LlavaAdapter.build_tiny()
    alone = count_tokens(adapter, ["a cat"])
    together = count_tokens(adapter, ["a cat"] * 9)
    assert alone < together < 3 * alone


def test_each_is_read_whole_by_an_llm_whose_image_tokens_see_the_question() -> None:
    adapter = PaliGemmaAdapter.build_tiny()
    assert count_tokens(adapter, ["a cat"] * 9) == 9 * count_tokens(adapter, ["a cat"])
