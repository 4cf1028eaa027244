#!/usr/bin/env bash
# transformers 5.24.0, bitsandbytes 0.50.2: llm_int8_skip_modules=["vision_tower"] quantizes tower and lm_head.
#
# Guess before looking: without a list everything but lm_head becomes 4 bits; with
# llm_int8_skip_modules=["vision_tower"] a LLaVA's vision tower stays as it is too.
# Seen: the list takes the place of the built-in one, so that lm_head becomes 4 bits, and a name is
# looked for at the start or the end of a module's full name, which begins with "model.", so that the
# tower becomes 4 bits all the same: the list protects nothing and takes the head's protection away,
# without a warning. Only ["model.vision_tower", "lm_head"] does what was meant.
# Fails when that changes.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet transformers==5.24.0 accelerate==1.15.0 bitsandbytes==0.50.2
"$folder/venv/bin/python" -W ignore - "$folder" 2> "$folder/log" <<'PYTHON' || { cat "$folder/log"; exit 1; }
import importlib.metadata
import sys

import torch
import transformers
from bitsandbytes.nn import Linear4bit
from transformers import (
    BitsAndBytesConfig,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

assert transformers.__version__ == "5.24.0", transformers.__version__
assert importlib.metadata.version("bitsandbytes") == "0.50.2"
torch.set_num_threads(1)
torch.manual_seed(0)
CONFIG = LlavaConfig(
    text_config=LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=4,
    ),
    vision_config=CLIPVisionConfig(
        hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        image_size=16, patch_size=8,
    ),
    image_token_index=63,
)
LlavaForConditionalGeneration(CONFIG).save_pretrained(sys.argv[1] + "/llava")
PARTS = ("vision_tower", "multi_modal_projector", "language_model", "lm_head")


def quantized_parts(skipped: list[str] | None) -> list[str]:
    """Load the model in 4 bits; the parts whose layers, all or some, are in 4 bits then."""
    model = LlavaForConditionalGeneration.from_pretrained(
        sys.argv[1] + "/llava",
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True, llm_int8_skip_modules=skipped
        ),
        device_map="cpu",
    )
    names = [name for name, module in model.named_modules() if isinstance(module, Linear4bit)]
    return [part for part in PARTS if any(part in name.split(".") for name in names)]


ALL_BUT_HEAD, MEANT = list(PARTS[:3]), list(PARTS[1:3])
for skipped, expected in [
    (None, ALL_BUT_HEAD),
    (["vision_tower"], list(PARTS)),
    (["multi_modal_projector"], list(PARTS)),
    (["vision_tower", "lm_head"], ALL_BUT_HEAD),
    (["model.vision_tower"], list(PARTS[1:])),
    (["model.vision_tower", "lm_head"], MEANT),
]:
    found = quantized_parts(skipped)
    print(f"llm_int8_skip_modules={skipped}: 4 bits in {found}")
    assert found == expected
PYTHON
