#!/usr/bin/env bash
# transformers 5.24.0: Gemma 3 and GOT-OCR2 made from their configurations do not see pictures.
#
# Guess before looking: an LMM with random weights answers two pictures differently, as LLaVA and
# PaliGemma do, so tests with tiny models notice a wrong picture or place; only those with gates
# (Flamingo, IDEFICS, Llama 3.2 Vision) begin blind.
# Seen: two pictures of noise give Gemma 3 equal logits to the bit, since the weight of its projector
# is set to zeros, whatever initializer_range is; and GOT-OCR2, since its vision tower's
# initializer_range is 1e-10 by default, whatever that of the rest is. BLIP-2's and InstructBLIP's
# towers have that default too; nothing warns.
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
from transformers import Blip2Config, InstructBlipConfig
from transformers import Gemma3Config, Gemma3ForConditionalGeneration
from transformers import GotOcr2Config, GotOcr2ForConditionalGeneration
from transformers import LlavaConfig, LlavaForConditionalGeneration
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

assert transformers.__version__ == "5.24.0", transformers.__version__

RANGE = {"initializer_range": 0.3}
TEXT = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8, "bos_token_id": 1,
    "eos_token_id": 2, "pad_token_id": 0, **RANGE,
}
VISION = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": 16, "patch_size": 4, **RANGE,
}
GOT = {
    "hidden_size": 16, "output_channels": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": 64, "patch_size": 4, "mlp_dim": 32, "window_size": 2, "global_attn_indexes": [1],
}


def change(model_class, config, image_tokens: int, side: int = 16) -> float:
    """The largest change of a logit by another picture."""
    torch.manual_seed(0)
    model = model_class(config).eval()
    tokens = torch.tensor([[1, *[63] * image_tokens, 5, 6, 7]])
    with torch.no_grad():
        logits = [
            model(input_ids=tokens, pixel_values=picture).logits
            for picture in torch.randn(2, 1, 3, side, side)
        ]
    return float((logits[0] - logits[1]).abs().max())


def got_ocr2(**vision) -> GotOcr2Config:
    text = {"model_type": "qwen2", **TEXT}
    return GotOcr2Config(vision_config={**GOT, **vision}, text_config=text, image_token_id=63)


llava = LlavaConfig(
    text_config={"model_type": "llama", **TEXT}, image_token_index=63,
    vision_config={"model_type": "clip_vision_model", **VISION},
)
paligemma = PaliGemmaConfig(
    text_config={"model_type": "gemma", **TEXT}, vision_config=VISION, image_token_index=63,
    projection_dim=32,
)
gemma3 = Gemma3Config(
    text_config=TEXT, vision_config=VISION, mm_tokens_per_image=4, image_token_index=63, **RANGE
)
changes = {
    "LLaVA": change(LlavaForConditionalGeneration, llava, 16),
    "PaliGemma": change(PaliGemmaForConditionalGeneration, paligemma, 16),
    "Gemma 3": change(Gemma3ForConditionalGeneration, gemma3, 4),
    "GOT-OCR2": change(GotOcr2ForConditionalGeneration, got_ocr2(), 16, 64),
    "GOT-OCR2, 0.3": change(GotOcr2ForConditionalGeneration, got_ocr2(**RANGE), 16, 64),
}
for name, value in changes.items():
    print(f"{name}: {value:.3f}")
ranges = [kind().vision_config.initializer_range for kind in (Blip2Config, InstructBlipConfig)]
print(f"default of BLIP-2's and InstructBLIP's vision towers: {ranges}")
assert changes["Gemma 3"] == changes["GOT-OCR2"] == 0 and ranges == [1e-10, 1e-10]
assert min(changes[name] for name in ("LLaVA", "PaliGemma", "GOT-OCR2, 0.3")) > 0.05
PYTHON
