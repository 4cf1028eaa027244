#!/usr/bin/env bash
# transformers 5.24.0: output_attentions=True gives no attention of IDEFICS to its pictures.
#
# Guess before looking: the attention of text to pictures is in the outputs: as cross_attentions, as
# with encoders and decoders, or in attentions, as with Llama 3.2 Vision (mllama), whose
# cross-attention layers also stand between those of a text-only LLM.
# Seen: attentions has the LLM's own layers alone, text to text, and there are no cross_attentions,
# though the gated layers do compute their weights (eager attention): only hooks get at them.
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
from transformers import IdeficsConfig, IdeficsForVisionText2Text
from transformers import MllamaConfig, MllamaForConditionalGeneration

assert transformers.__version__ == "5.24.0", transformers.__version__

TEXT = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4,
    "num_attention_heads": 4, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}
IDEFICS = IdeficsConfig(
    **TEXT, cross_layer_interval=2, attn_implementation="eager",
    vision_config={
        "embed_dim": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 16, "patch_size": 4,
    },
)
MLLAMA = MllamaConfig(
    text_config={**TEXT, "num_key_value_heads": 4, "cross_attention_layers": [1, 3]},
    vision_config={
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_global_layers": 1,
        "attention_heads": 2, "vision_output_dim": 32, "intermediate_layers_indices": [0],
        "image_size": 16, "patch_size": 4,
    },
    image_token_index=63, attn_implementation="eager",
)
TOKENS = torch.tensor([[1, 63, 5, 6, 7]])
SEES = (TOKENS == 63).cumsum(1)


def widths(outputs, name: str) -> list[int]:
    """How many tokens are attended to in each of the output's tensors."""
    return [each.shape[-1] for each in getattr(outputs, name, None) or ()]


options = {"input_ids": TOKENS, "output_attentions": True}
model = IdeficsForVisionText2Text(IDEFICS).eval()
computed = []
for layer in model.model.gated_cross_attn_layers:
    layer.cross_attn.register_forward_hook(lambda *call: computed.append(call[2][1].shape[-1]))
with torch.no_grad():
    idefics = model(
        pixel_values=torch.rand(1, 1, 3, 16, 16), image_attention_mask=SEES[..., None], **options
    )
    mllama = MllamaForConditionalGeneration(MLLAMA).eval()(
        pixel_values=torch.rand(1, 1, 4, 3, 16, 16), aspect_ratio_ids=torch.tensor([[6]]),
        aspect_ratio_mask=torch.ones(1, 1, 4, dtype=torch.int64),
        cross_attention_mask=SEES[..., None, None].repeat(1, 1, 1, 4), **options,
    )
print(f"outputs of IDEFICS: {list(idefics)}; the gated layers computed {computed}")
print(f"attentions: IDEFICS {widths(idefics, 'attentions')}, mllama {widths(mllama, 'attentions')}")
# 17 tokens of a picture or of a tile: 16 patches and a class token.
assert computed == [17, 17]
assert widths(idefics, "attentions") == [5, 5, 5, 5] and not widths(idefics, "cross_attentions")
assert widths(mllama, "attentions") == [5, 4 * 17, 5, 4 * 17]
PYTHON
