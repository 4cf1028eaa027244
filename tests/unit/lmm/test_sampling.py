"""Sampling of tokens: each setting equals transformers' own ``generate``."""

from collections.abc import Callable
from typing import cast

import pytest
import torch
from PIL import Image
from transformers.generation.utils import GenerateDecoderOnlyOutput

from flmm.errors import InputError
from flmm.lmm.families.llava import LlavaAdapter
from flmm.lmm.prompt import Prompt
from flmm.lmm.sampling import SamplingParams, TokenSampler

SEED = 5
NUM_TOKENS = 24


@pytest.fixture(scope="module")
def adapter() -> LlavaAdapter:
    return LlavaAdapter.build_tiny()


@pytest.fixture(scope="module")
def prompt(adapter: LlavaAdapter) -> Prompt:
    return adapter.build_prompt(Image.new("RGB", (32, 32)), "what is it?")


def generate(
    adapter: LlavaAdapter, prompt: Prompt, **settings: object
) -> GenerateDecoderOnlyOutput:
    """Run transformers' ``generate`` with the settings and the seed."""
    inputs = adapter.collate([prompt])
    torch.manual_seed(SEED)
    return cast(Callable[..., GenerateDecoderOnlyOutput], adapter.model.generate)(
        **inputs.model_inputs, **settings, max_new_tokens=NUM_TOKENS, min_new_tokens=NUM_TOKENS,
        pad_token_id=0, return_dict_in_generate=True, output_logits=True,
    )  # fmt: skip


def sample_again(
    output: GenerateDecoderOnlyOutput, params: SamplingParams, adapter: LlavaAdapter, prompt: Prompt
) -> list[int]:
    """Return what is sampled from the logits of that ``generate``."""
    sampler = TokenSampler(params, adapter, prompt)
    assert output.logits is not None
    tokens = []
    for logits in output.logits:
        logits[0, list(adapter.eos_token_ids)] = -torch.inf  # min_new_tokens
        tokens.append(int(sampler.sample(logits[0])))
    return tokens


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 1.0},
        {"temperature": 3.0},
        {"temperature": 2.0, "top_k": 3},
        {"temperature": 2.0, "top_p": 0.3},
        {"temperature": 2.0, "min_p": 0.4},
        {"temperature": 2.0, "top_k": 40, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.5},
        {"repetition_penalty": 1.3},
        {"repetition_penalty": 0.7},
    ],
)
def test_same_tokens_as_generate(
    adapter: LlavaAdapter, prompt: Prompt, settings: dict[str, float]
) -> None:
    sampled = "temperature" in settings
    # generate's own defaults are no settings of ours.
    output = generate(
        adapter, prompt, do_sample=sampled, **({"top_k": 0} if sampled else {}) | settings
    )
    params = SamplingParams(seed=SEED, **settings)  # type: ignore[arg-type]
    tokens = sample_again(output, params, adapter, prompt)
    assert tokens == output.sequences[0, prompt.length :].tolist()
    # The settings matter here: without them, other tokens come.
    plain = SamplingParams(settings.get("temperature", 0), SEED)
    changed = sample_again(output, plain, adapter, prompt) != tokens
    assert changed == (len(settings) > 1 or not sampled)


def test_penalties_on_tokens_that_were_said(adapter: LlavaAdapter, prompt: Prompt) -> None:
    # That the prompt has the likeliest token does not count.
    likeliest = int(prompt.inputs["input_ids"][0, -1])
    order = [likeliest, *(index for index in range(4) if index != likeliest)][:4]
    logits = torch.full((100,), -9.0)
    logits[order] = torch.tensor([3.0, 2.0, 1.0, 0.0])

    def sample(**penalties: float) -> list[int]:
        params = SamplingParams(**penalties)  # type: ignore[arg-type]
        sampler = TokenSampler(params, adapter, prompt)
        return [order.index(int(sampler.sample(logits))) for _ in range(6)]

    assert sample(presence_penalty=1.5) == [0, 1, 0, 0, 0, 0]
    assert sample(frequency_penalty=0.6) == [0, 0, 1, 0, 1, 0]
    assert sample(presence_penalty=-1.0, frequency_penalty=1.1) == [0, 0, 1, 1, 0, 2]


@pytest.mark.parametrize("settings", [{"repetition_penalty": 1e-300}, {"presence_penalty": -1e39}])
def test_extreme_penalties_sample_some_token(
    adapter: LlavaAdapter, prompt: Prompt, settings: dict[str, float]
) -> None:
    params = SamplingParams(1.0, SEED, **settings)  # type: ignore[arg-type]
    sampler = TokenSampler(params, adapter, prompt)
    tokens = [int(sampler.sample(torch.arange(-50.0, 50.0))) for _ in range(6)]
    assert all(0 <= token < 100 for token in tokens)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": -0.1}, "top_p is -0.1"),
        ({"min_p": 1.5}, "min_p is 1.5"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SamplingParams(**settings)  # type: ignore[arg-type]
