"""Sampling of tokens: each setting equals transformers' own ``generate``."""

from collections.abc import Callable
from typing import cast

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers.generation.utils import GenerateDecoderOnlyOutput

from flmm.errors import InputError
from flmm.lmm.families.llava import LlavaAdapter
from flmm.lmm.sampling import SamplingParams, TokenSampler

SEED = 5
NUM_TOKENS = 24


@pytest.fixture(scope="module")
def adapter() -> LlavaAdapter:
    return LlavaAdapter.build_tiny()


@pytest.fixture(scope="module")
def prompt_ids(adapter: LlavaAdapter) -> Tensor:
    return adapter.build_prompt(Image.new("RGB", (32, 32)), "what is it?").inputs["input_ids"]


def generate(adapter: LlavaAdapter, **settings: object) -> GenerateDecoderOnlyOutput:
    """Run transformers' ``generate`` with the settings and the seed."""
    inputs = adapter.collate([adapter.build_prompt(Image.new("RGB", (32, 32)), "what is it?")])
    torch.manual_seed(SEED)
    return cast(Callable[..., GenerateDecoderOnlyOutput], adapter.model.generate)(
        **inputs.model_inputs, **settings, max_new_tokens=NUM_TOKENS, min_new_tokens=NUM_TOKENS,
        pad_token_id=0, return_dict_in_generate=True, output_logits=True,
    )  # fmt: skip


def sample_again(
    output: GenerateDecoderOnlyOutput, params: SamplingParams, prompt_ids: Tensor, eos_id: int
) -> list[int]:
    """Return what is sampled from the logits of that ``generate``."""
    sampler = TokenSampler(params, torch.device("cpu"), prompt_ids)
    assert output.logits is not None
    tokens = []
    for logits in output.logits:
        logits[0, eos_id] = -torch.inf  # min_new_tokens
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
    adapter: LlavaAdapter, prompt_ids: Tensor, settings: dict[str, float]
) -> None:
    sampled = "temperature" in settings
    # generate's own defaults are no settings of ours.
    output = generate(adapter, do_sample=sampled, **({"top_k": 0} if sampled else {}) | settings)
    params = SamplingParams(seed=SEED, **settings)  # type: ignore[arg-type]
    eos_id = adapter.tokenizer.eos_token_id
    assert isinstance(eos_id, int)
    tokens = sample_again(output, params, prompt_ids, eos_id)
    assert tokens == output.sequences[0, prompt_ids.shape[1] :].tolist()
    # The settings matter here: without them, other tokens come.
    plain = SamplingParams(settings.get("temperature", 0), SEED)
    changed = sample_again(output, plain, prompt_ids, eos_id) != tokens
    assert changed == (len(settings) > 1 or not sampled)


def test_penalties_on_tokens_that_were_said() -> None:
    logits = torch.tensor([3.0, 2.0, 1.0, 0.0])
    prompt_ids = torch.tensor([[0, 0, 1]])

    def sample(**penalties: float) -> list[int]:
        params = SamplingParams(**penalties)  # type: ignore[arg-type]
        sampler = TokenSampler(params, torch.device("cpu"), prompt_ids)
        return [int(sampler.sample(logits)) for _ in range(6)]

    # The prompt's tokens do not count.
    assert sample(presence_penalty=1.5) == [0, 1, 0, 0, 0, 0]
    assert sample(frequency_penalty=0.6) == [0, 0, 1, 0, 1, 0]
    assert sample(presence_penalty=-1.0, frequency_penalty=1.1) == [0, 0, 1, 1, 0, 2]


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
