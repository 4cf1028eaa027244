"""A tiny random BERT with its tokenizer, saved as published ones are."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForPreTraining, PreTrainedTokenizerFast

WORDS = (
    "a", "an", "the", "dog", "cat", "hat", "man", "grass", "sky", "red", "left", "big", "of", "on",
    "'", "##s", "##es",
)  # fmt: skip


def save_tiny_bert(folder: Path, seed: int = 0) -> Path:
    """Save BERT's tokenizer and weights under the names that `bert-base-uncased` has on the hub.

    They have the prefix "bert.", the weights of the heads that it was trained with, and the
    first names of LayerNorm's parameters.
    """
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {token: number for number, token in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]",
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=48, max_position_embeddings=24, initializer_range=0.5,
    )  # fmt: skip
    BertForPreTraining(config).save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    named = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): weight
        for name, weight in weights.items()
    }
    assert any(name.startswith("bert.") for name in named)
    assert any(name.startswith("cls.") for name in named)
    save_file(named, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
