"""A tiny language model whose chat template takes strings alone, and an LMM of it."""

from pathlib import Path

import pytest
import torch
from language_model.assembly import (
    BEGIN_IMAGE_TOKEN,
    END_IMAGE_TOKEN,
    IMAGE_TOKEN,
    TILE_TOKEN,
    build_lmm,
    save_lmm,
)
from language_model.token_copies import VOCABULARY_TOKEN
from transformers import PreTrainedTokenizerFast
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from flmm.embedded_model.recipe.head_training import LMM_NAME
from flmm.lmm.tiny_models import (
    find_token_id,
    random_model,
    tiny_text_config,
    tiny_tokenizer,
)

STRINGS_ALONE = (
    "{% for message in messages %}"
    "{{ '<s>' + message['role'] + '\n' + message['content'] + '</s>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
)


@pytest.fixture
def llm() -> LlamaForCausalLM:
    return build_tiny_llm()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny_lmm(tmp_path / "lmm")


def build_tiny_llm() -> LlamaForCausalLM:
    """Build the language model."""
    settings = tiny_text_config(build_tiny_tokenizer(), grouped_queries=True)
    config = LlamaConfig(**settings, tie_word_embeddings=True)
    llm = random_model(lambda: LlamaForCausalLM(config))
    llm.eval()  # type: ignore[no-untyped-call]
    return llm


def save_tiny_lmm(folder: Path) -> Path:
    """Build and save the LMM; return its folder."""
    tokenizer = build_tiny_tokenizer()
    torch.manual_seed(0)
    image_token_id = find_token_id(tokenizer, IMAGE_TOKEN)
    save_lmm(build_lmm(build_tiny_llm(), image_token_id, LMM_NAME), tokenizer, folder)
    return folder


def build_tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer of both."""
    tokenizer = tiny_tokenizer(
        IMAGE_TOKEN, BEGIN_IMAGE_TOKEN, END_IMAGE_TOKEN, TILE_TOKEN, VOCABULARY_TOKEN
    )
    tokenizer.chat_template = STRINGS_ALONE
    return tokenizer
