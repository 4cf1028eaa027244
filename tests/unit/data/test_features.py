"""Features of several texts about a picture."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from PIL import Image
from torch import Tensor, nn

from flmm.data.exchanges import Exchange
from flmm.data.features import FeatureExtractor, PhraseFeatures, PictureExchanges
from flmm.head.config import HeadConfig
from flmm.lmm.base import LMMAdapter
from flmm.lmm.families.llava import LlavaAdapter

PICTURE = Image.linear_gradient("L").resize((40, 40)).convert("RGB")
ANSWERS = ("a cat", "the dog", "the grass on the left", "a cat and a dog on the grass " * 4)
"""Of lengths that share no batch."""


@contextmanager
def count_tokens(adapter: LMMAdapter) -> Iterator[list[int]]:
    """Collect the number of tokens of each pass through the LLM's first layer."""
    tokens: list[int] = []

    def count(_layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        tokens.append(arguments[0].shape[:2].numel())

    handle = adapter.decoder_layers[0].register_forward_pre_hook(count)
    yield tokens
    handle.remove()


def test_the_llm_reads_a_picture_once_for_all_of_its_texts() -> None:
    adapter = LlavaAdapter.build_tiny()
    config = HeadConfig(adapter.layers, adapter.heads, adapter.hidden_size, refine=False)
    extractor = FeatureExtractor(adapter, config, None)
    exchanges = [
        Exchange("what is it?", answer, ((0, len(answer.strip())),), ((index, 0),), False)
        for index, answer in enumerate(ANSWERS)
    ]
    alone: list[PhraseFeatures] = []
    with count_tokens(adapter) as tokens_alone:
        for exchange in exchanges:
            (features,) = extractor.extract([PictureExchanges(PICTURE, (exchange,))])
            alone += features.phrases
    with count_tokens(adapter) as tokens_together:
        (together,) = extractor.extract([PictureExchanges(PICTURE, tuple(exchanges))])
    num_image_tokens = adapter.build_prompt(PICTURE, "").image_token_positions.numel()
    # The questions are read once too, but some of the answers have padding.
    assert sum(tokens_together) <= sum(tokens_alone) - (len(ANSWERS) - 1) * num_image_tokens
    for found, expected in zip(together.phrases, alone, strict=True):
        torch.testing.assert_close(found.attention, expected.attention, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.hidden_states, expected.hidden_states)
