"""Memory that real LMMs need, computed from their configurations; nothing is loaded or measured.

    python benchmarks/lmm_memory.py

Prints README's table: the weights in bfloat16 and in 4 bit (bitsandbytes: linear layers but the
language modelling head, 4 bits a weight and a float32 scale for 64 of them), and the cache of
keys and values in bfloat16 for one picture and 512 tokens of text. Activations are not in it.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import (
    CLIPVisionConfig,
    DeepseekVLConfig,
    DeepseekVLHybridConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaNextConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    SamConfig,
    SamModel,
    SiglipVisionConfig,
)
from transformers.models.auto.modeling_auto import AutoModelForImageTextToText

GIGABYTE = 10**9
BYTES_OF_4_BIT_WEIGHT = 0.5 + 4 / 64
TEXT_TOKENS = 512


@dataclass(frozen=True)
class RealLMM:
    """A published LMM: its configuration, and the image tokens of one picture."""

    name: str
    config: PreTrainedConfig
    image_tokens: int


def list_lmms() -> tuple[RealLMM, ...]:
    """Return the LMMs of the table, with the sizes that their publishers gave them."""
    clip = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
        image_size=336, patch_size=14, projection_dim=768,
    )  # fmt: skip
    vicuna = LlamaConfig(vocab_size=32_064)
    mistral = MistralConfig(vocab_size=32_064, num_key_value_heads=8)
    siglip = SiglipVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
        image_size=384, patch_size=16,
    )  # fmt: skip
    small = LlamaConfig(
        vocab_size=102_400, hidden_size=2048, intermediate_size=5632, num_hidden_layers=24,
        num_attention_heads=16,
    )  # fmt: skip
    large = LlamaConfig(vocab_size=102_400, num_hidden_layers=30)
    qwen = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 151_936, "hidden_size": 2048, "intermediate_size": 11_008,
            "num_hidden_layers": 36, "num_attention_heads": 16, "num_key_value_heads": 2,
        },
        vision_config={
            "depth": 32, "hidden_size": 1280, "out_hidden_size": 2048, "intermediate_size": 3420,
            "num_heads": 16,
        },
        tie_word_embeddings=True,
    )  # fmt: skip
    return (
        RealLMM(
            "llava-hf/llava-1.5-7b-hf", LlavaConfig(vision_config=clip, text_config=vicuna), 576
        ),
        # One view, at most four tiles, and a token at the end of each row of these.
        RealLMM(
            "llava-hf/llava-v1.6-vicuna-7b-hf",
            LlavaNextConfig(vision_config=clip, text_config=vicuna),
            2928,
        ),
        RealLMM(
            "llava-hf/llava-v1.6-mistral-7b-hf",
            LlavaNextConfig(vision_config=clip, text_config=mistral),
            2928,
        ),
        RealLMM(
            "deepseek-community/deepseek-vl-1.3b-chat",
            DeepseekVLConfig(vision_config=siglip, text_config=small, tie_word_embeddings=False),
            576,
        ),
        RealLMM(
            "deepseek-community/deepseek-vl-7b-chat",
            DeepseekVLHybridConfig(
                vision_config=siglip, text_config=large, tie_word_embeddings=False
            ),
            576,
        ),
        # A picture of 1,024 × 768 pixels, a token for 28 × 28 of them.
        RealLMM("Qwen/Qwen2.5-VL-3B-Instruct", qwen, 37 * 27),
    )


def count_weights(model: PreTrainedModel) -> tuple[int, int]:
    """Return the number of weights, and of those that bitsandbytes turns into 4 bits."""
    linear = sum(
        module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name != "lm_head"
    )
    return sum(weight.numel() for weight in model.parameters()), linear


def cache_bytes(lmm: RealLMM) -> int:
    """Return the size of the keys and values of a picture and its conversation in bfloat16."""
    text = lmm.config.get_text_config(decoder=True)
    head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    tokens = lmm.image_tokens + TEXT_TOKENS
    values: int = 2 * text.num_hidden_layers * text.num_key_value_heads * head_size * tokens
    return 2 * values


def print_table() -> None:
    print("| LMM | weights | bf16 | 4 bit | image tokens | their cache, with 512 of text |")
    print("| --- | --- | --- | --- | --- | --- |")
    for lmm in list_lmms():
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(lmm.config)  # type: ignore[no-untyped-call]
        weights, linear = count_weights(model)
        four_bit = linear * BYTES_OF_4_BIT_WEIGHT + (weights - linear) * 2
        print(
            f"| `{lmm.name}` | {weights / 1e9:.2f} B | {2 * weights / GIGABYTE:.1f} GB"
            f" | {four_bit / GIGABYTE:.1f} GB | {lmm.image_tokens:,}"
            f" | {cache_bytes(lmm) / GIGABYTE:.1f} GB |"
        )
    vision = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
              "global_attn_indexes": [5, 11, 17, 23], "mlp_dim": 4096}  # fmt: skip
    with torch.device("meta"):
        sam = SamModel(SamConfig(vision_config=vision))
    weights, _ = count_weights(sam)
    print(f"\nSAM ViT-L in float32: {4 * weights / GIGABYTE:.1f} GB")


if __name__ == "__main__":
    print_table()
