"""Features of several texts about a picture."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from flmm.data.exchanges import Exchange
from flmm.data.features import FeatureExtractor, PictureExchanges
from flmm.head.config import HeadConfig
from flmm.lmm.base import LMMAdapter
from flmm.lmm.families.llava import LlavaAdapter
from flmm.lmm.families.paligemma import PaliGemmaAdapter

PICTURE = Image.linear_gradient("L").resize((40, 40)).convert("RGB")
ANSWERS = ("the dog on the grass", "a cat and a dog on the grass " * 4, "the dog", "a cat")
"""The first and the last two share a batch, not in order of length."""


@contextmanager
def count_tokens(adapter: LMMAdapter) -> Iterator[list[int]]:
    """Collect the number of tokens of each pass through the LLM's first layer."""
    tokens: list[int] = []

    def count(_layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        tokens.append(arguments[0].shape[:2].numel())

    handle = adapter.decoder_layers[0].register_forward_pre_hook(count)
    yield tokens
    handle.remove()


def build_exchange(text: str, index: int, *, is_question: bool = False) -> Exchange:
    spans = ((0, len(text.strip())),)
    if is_question:
        return Exchange(text, None, spans, ((index, 0),), False)
    return Exchange("what is it?", text, spans, ((index, 0),), False)


@pytest.fixture(params=[LlavaAdapter, PaliGemmaAdapter])
def extractor(request: pytest.FixtureRequest) -> FeatureExtractor:
    """Of an LLM that reads a picture once for several texts, and of one that cannot."""
    adapter = request.param.build_tiny()
    config = HeadConfig(adapter.layers, adapter.heads, adapter.hidden_size, refine=False)
    return FeatureExtractor(adapter, config, None)


def test_features_of_many_texts_are_those_of_each_alone(extractor: FeatureExtractor) -> None:
    answers = [build_exchange(answer, index) for index, answer in enumerate(ANSWERS)]
    question = build_exchange("the cat on the grass", 4, is_question=True)
    other = PICTURE.transpose(Image.Transpose.ROTATE_90)
    pictures = [
        PictureExchanges(PICTURE, (*answers[:2], question, *answers[2:])),
        PictureExchanges(other, (answers[2],)),
        PictureExchanges(PICTURE, tuple(answers[::-1])),
    ]
    extracted = extractor.extract(pictures)
    for picture, together in zip(pictures, extracted, strict=True):
        assert len(together.phrases) == len(picture.exchanges)
        for exchange, found in zip(picture.exchanges, together.phrases, strict=True):
            (features,) = extractor.extract([PictureExchanges(picture.picture, (exchange,))])
            (expected,) = features.phrases
            torch.testing.assert_close(found.attention, expected.attention, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(
                found.hidden_states, expected.hidden_states, rtol=1e-4, atol=1e-4
            )
            assert found.log_probabilities is not None
            torch.testing.assert_close(
                found.log_probabilities, expected.log_probabilities, rtol=1e-4, atol=1e-4
            )


def test_the_llm_reads_a_picture_once_for_all_of_its_texts() -> None:
    adapter = LlavaAdapter.build_tiny()
    config = HeadConfig(adapter.layers, adapter.heads, adapter.hidden_size, refine=False)
    extractor = FeatureExtractor(adapter, config, None)
    exchanges = [build_exchange(answer, index) for index, answer in enumerate(ANSWERS)]
    with count_tokens(adapter) as tokens_alone:
        for exchange in exchanges:
            extractor.extract([PictureExchanges(PICTURE, (exchange,))])
    extractor.batcher.num_tokens = extractor.batcher.num_padded_tokens = 0
    with count_tokens(adapter) as tokens_together:
        extractor.extract([PictureExchanges(PICTURE, tuple(exchanges))])
    num_image_tokens = adapter.build_prompt(PICTURE, "").image_token_positions.numel()
    # The question is read once too, but some of the answers have padding.
    assert sum(tokens_together) <= sum(tokens_alone) - (len(ANSWERS) - 1) * num_image_tokens
    # The picture and two batches.
    assert len(tokens_together) == 3
    assert extractor.batcher.num_padded_tokens == sum(tokens_together)
    assert 0 < extractor.batcher.padding < 0.1
