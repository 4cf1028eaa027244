"""Recording of LLMs that choose the keys of each token, which must not change what they choose."""

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers.models.clip.configuration_clip import CLIPVisionConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.deepseek_v32.configuration_deepseek_v32 import DeepseekV32Config
from transformers.models.llava.configuration_llava import LlavaConfig
from transformers.models.llava.modeling_llava import LlavaForConditionalGeneration

from flmm.attention.recorder import AttentionRecorder, record
from flmm.attention.tracing import trace_text
from flmm.lmm.families.llava import LlavaAdapter
from flmm.lmm.tiny_models import (
    find_token_id,
    random_model,
    tiny_text_config,
    tiny_tokenizer,
    tiny_vision_config,
)

TOP_K = 8
"""Keys that each token attends to; a prompt has many more."""


@pytest.fixture(scope="module")
def adapter() -> LlavaAdapter:
    tokenizer = tiny_tokenizer("<image>")
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**tiny_vision_config(32, 4)),
        text_config=DeepseekV32Config(
            **tiny_text_config(tokenizer, grouped_queries=False),
            moe_intermediate_size=16,
            n_routed_experts=4,
            num_experts_per_tok=2,
            n_group=1,
            topk_group=1,
            first_k_dense_replace=3,
            mlp_layer_types=["dense"] * 3,
            kv_lora_rank=16,
            q_lora_rank=16,
            qk_rope_head_dim=8,
            qk_nope_head_dim=8,
            v_head_dim=8,
            index_topk=TOP_K,
            index_head_dim=16,
            index_n_heads=2,
        ),
        image_token_index=find_token_id(tokenizer, "<image>"),
        vision_feature_layer=-1,
    )
    model = random_model(lambda: LlavaForConditionalGeneration(config))
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    return LlavaAdapter(model, tokenizer, processor, name="tiny-llava-sparse")


def test_recording_changes_no_bit_of_sparse_attention(adapter: LlavaAdapter) -> None:
    prompt = adapter.build_prompt(Image.new("RGB", (40, 32), "orange"), "what is it?", "a cat")
    inputs = adapter.collate([prompt], keep_pixels=True).inputs
    positions = torch.tensor([[prompt.length - 1]])
    with torch.no_grad():
        alone: Tensor = adapter.model(**inputs).logits
        with record(
            AttentionRecorder(adapter, prompt.image_token_positions[None], positions), adapter
        ):
            recorded = adapter.model(**inputs).logits
    assert torch.equal(alone, recorded)


def test_rows_have_chosen_keys_only(adapter: LlavaAdapter) -> None:
    prompt = adapter.build_prompt(Image.new("RGB", (40, 32), "orange"), "what is it?", "a cat")
    assert prompt.length > 8 * TOP_K
    attended = (trace_text(adapter, prompt).attention > 0).flatten(3).sum(-1)
    assert 0 < attended.max() <= TOP_K
