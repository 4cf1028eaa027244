#!/usr/bin/env bash
# transformers 5.24.0: in Llama 3.2 Vision (mllama), text before the first picture sees the picture.
#
# Guess before looking: the processor's cross_attention_mask is 0 for tokens before the first image
# token, and the model is causal, so their logits are the same whatever the picture shows; so it is
# with IDEFICS. full_text_row_masked_out_mask is there for that: in Meta's own code it silences the
# attention of such tokens.
# Seen: it makes their mask all zeros, so that they attend to every vision tile, and silences the MLP
# after that alone; the attention's output is added. The logits of a system prompt, or of the
# beginning-of-text token, change with the picture. transformers' issue 39379 reports it.
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
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3,
    "num_attention_heads": 4, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    "initializer_range": 0.3,
}
MLLAMA = MllamaConfig(
    text_config={**TEXT, "num_key_value_heads": 4, "cross_attention_layers": [1]},
    vision_config={
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_global_layers": 1,
        "attention_heads": 2, "vision_output_dim": 48, "intermediate_layers_indices": [0, 1],
        "image_size": 16, "patch_size": 4, "initializer_range": 0.3,
    },
    image_token_index=63,
)
IDEFICS = IdeficsConfig(
    **TEXT, cross_layer_interval=1,
    vision_config={
        "embed_dim": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": 16, "patch_size": 4, "initializer_range": 0.3,
    },
)
TOKENS = torch.tensor([[1, 5, 6, 7, 63, 8, 9]])
SEES = (TOKENS == 63).cumsum(1)  # 1 from the image token on, as the processors have it.


def changes(model, pictures, **inputs) -> list[float]:
    """How much another picture changes the logits of each token."""
    for name, parameter in model.eval().named_parameters():
        if name.endswith("gate") or "alpha" in name:  # Closed in a new model.
            parameter.data.fill_(0.7)
    with torch.no_grad():
        logits = [model(input_ids=TOKENS, pixel_values=each, **inputs).logits for each in pictures]
    return [round(float(change), 2) for change in (logits[0] - logits[1]).abs().amax(-1)[0]]


torch.manual_seed(0)
tiles = torch.zeros(2, 1, 1, 4, 3, 16, 16)
tiles[:, :, :, 0] = torch.rand(2, 1, 1, 3, 16, 16)
one_tile = torch.tensor([1, 0, 0, 0])
idefics = changes(
    IdeficsForVisionText2Text(IDEFICS), tiles[:, :, :, 0], image_attention_mask=SEES[..., None]
)
mllama = changes(
    MllamaForConditionalGeneration(MLLAMA), tiles, aspect_ratio_ids=torch.tensor([[1]]),
    aspect_ratio_mask=one_tile[None, None], cross_attention_mask=SEES[..., None, None] * one_tile,
)
print(f"IDEFICS {idefics}\nmllama  {mllama}")
assert max(idefics[:4]) == 0 and min(idefics[4:]) > 0.05
assert min(mllama) > 0.05
PYTHON
