"""Tokenizers, configurations and weights for the families' tiny random models."""

from collections.abc import Callable
from typing import TypedDict, TypeVar

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers.modeling_utils import PreTrainedModel
from transformers.tokenization_utils_tokenizers import PreTrainedTokenizerFast

Model = TypeVar("Model", bound=PreTrainedModel)


class TextConfigKwargs(TypedDict):
    """The settings that every LLM's configuration has."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    max_position_embeddings: int
    initializer_range: float
    bos_token_id: int
    eos_token_id: int
    pad_token_id: int


def tiny_tokenizer(*special_tokens: str) -> PreTrainedTokenizerFast:
    """Build a byte-level BPE tokenizer in memory, which encodes and decodes any text.

    ``special_tokens``: those of the family; each becomes one token.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=316 + len(special_tokens),
        special_tokens=["<s>", "</s>", "<pad>", *special_tokens],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        ["USER: what is on the grass? ASSISTANT: the cat and the dog"], trainer
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens=list(special_tokens),
    )


def find_token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    """Return the id of a token of the vocabulary."""
    token_id = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(token_id, int)
    return token_id


def tiny_text_config(tokenizer: PreTrainedTokenizerFast, grouped_queries: bool) -> TextConfigKwargs:
    """Return settings for three layers of four heads; ``grouped_queries``: with two key heads."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2 if grouped_queries else 4,
        "max_position_embeddings": 2048,
        # Larger than usual: with near-uniform attention, tests would miss mistakes.
        "initializer_range": 0.3,
        "bos_token_id": find_token_id(tokenizer, "<s>"),
        "eos_token_id": find_token_id(tokenizer, "</s>"),
        "pad_token_id": find_token_id(tokenizer, "<pad>"),
    }


class VisionConfigKwargs(TypedDict):
    """The settings that most vision towers' configurations have."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    image_size: int
    patch_size: int


def tiny_vision_config(image_size: int, patch_size: int) -> VisionConfigKwargs:
    """Return settings for two layers of two heads on canvases of ``image_size`` pixels square."""
    return {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": image_size,
        "patch_size": patch_size,
    }


def random_model(build: Callable[[], Model]) -> Model:
    """Build a model with the same random weights every time; torch's generator is not changed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build()
