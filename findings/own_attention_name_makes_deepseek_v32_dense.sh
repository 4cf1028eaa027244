#!/usr/bin/env bash
# transformers 5.24.0: sdpa registered under another name makes DeepSeek V3.2's sparse attention dense.
#
# Guess before looking: AttentionInterface.register("my_sdpa", sdpa_attention_forward), with the mask
# function of sdpa registered under the same name, is the documented way to wrap an attention (to
# record or time it), and no output changes, as for Llama, where the logits are equal to the bit.
# Seen: DeepSeek V3.2 puts the mask of its chosen keys in place only if the implementation is *named*
# "eager" or "sdpa". Under another name every token attends to all earlier ones, the logits change as
# soon as a text has more tokens than index_topk (2,048 in real models, 4 here), and nothing warns.
# Fails when that changes.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet transformers==5.24.0
"$folder/venv/bin/python" - <<'PYTHON'
import torch
import transformers
from transformers import AttentionInterface, AttentionMaskInterface
from transformers import DeepseekV32Config, DeepseekV32ForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

assert transformers.__version__ == "5.24.0", transformers.__version__
AttentionInterface.register("my_sdpa", sdpa_attention_forward)
AttentionMaskInterface.register("my_sdpa", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])

SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 4, "initializer_range": 0.3,
}
SPARSE = {
    "moe_intermediate_size": 16, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
    "topk_group": 1, "first_k_dense_replace": 2, "kv_lora_rank": 16, "q_lora_rank": 16,
    "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "index_topk": 4,
    "index_head_dim": 16, "index_n_heads": 2,
}


def largest_change(model_class, config, tokens: int) -> float:
    """The largest change of a logit when sdpa is set under its other name."""
    torch.manual_seed(0)
    model = model_class(config).eval()
    token_ids = torch.arange(tokens)[None] % 64
    logits = []
    for name in ("sdpa", "my_sdpa"):
        model.set_attn_implementation(name)
        with torch.no_grad():
            logits.append(model(input_ids=token_ids).logits)
    return float((logits[0] - logits[1]).abs().max())


llama = largest_change(LlamaForCausalLM, LlamaConfig(**SIZES), 40)
deepseek = DeepseekV32Config(**SIZES, **SPARSE)
short = largest_change(DeepseekV32ForCausalLM, deepseek, 4)
long = largest_change(DeepseekV32ForCausalLM, deepseek, 40)
print(f"Llama {llama:.3f}; DeepSeek V3.2: 4 tokens {short:.3f}, 40 tokens {long:.3f}")
assert llama == 0 and short == 0 and long > 0.1
PYTHON
