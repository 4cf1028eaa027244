#!/usr/bin/env bash
# transformers 5.24.0: Gemma 3 sees a later picture otherwise if token_type_ids are the new tokens' alone.
#
# Guess before looking: token_type_ids have the shape of input_ids, as the documentation says; so a
# conversation that goes on after a cache passes those of its new tokens, and the later picture is
# seen as in one pass: its tokens attend to each other in both directions. Too short ones would raise.
# Seen: they are taken for those of the first tokens of the whole conversation, without an error. The
# second picture's tokens attend to their own picture causally, and logits from its first token on
# are others. Right are token_type_ids of the whole conversation, longer than input_ids.
# Fails when that changes.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet transformers==5.24.0
"$folder/venv/bin/python" -W ignore - 2> "$folder/log" <<'PYTHON' || { cat "$folder/log"; exit 1; }
import torch
import transformers
from transformers import DynamicCache, Gemma3Config, Gemma3ForConditionalGeneration

assert transformers.__version__ == "5.24.0", transformers.__version__
torch.set_num_threads(1)
torch.manual_seed(0)
START, PICTURE, END = 62, 63, 61
CONFIG = Gemma3Config(
    text_config={
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 6,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 64,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    },
    vision_config={
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 16, "patch_size": 4,
    },
    mm_tokens_per_image=4, image_token_index=PICTURE, boi_token_index=START, eoi_token_index=END,
    attn_implementation="eager",
)
MODEL = Gemma3ForConditionalGeneration(CONFIG).eval()
for parameter in MODEL.parameters():
    parameter.data = 0.3 * torch.randn_like(parameter)
IMAGE = [START, *[PICTURE] * 4, END]
TURNS = torch.tensor([[1, 5, *IMAGE, 7, 8], [9, 10, *IMAGE, 11, 12]])
LENGTH = TURNS.shape[1]
ALL = TURNS.reshape(1, -1)
TYPES = (ALL == PICTURE).long()
PIXELS = 3 * torch.randn(2, 3, 16, 16)


@torch.no_grad()
def run_second_turn(types: torch.Tensor):
    """The second turn's logits and attentions, after a cache of the first."""
    cache = DynamicCache(config=MODEL.config.get_text_config())
    MODEL(
        input_ids=TURNS[:1], pixel_values=PIXELS[:1], token_type_ids=TYPES[:, :LENGTH],
        past_key_values=cache, use_cache=True,
    )
    return MODEL(
        input_ids=TURNS[1:], pixel_values=PIXELS[1:], token_type_ids=types,
        attention_mask=torch.ones_like(ALL), past_key_values=cache, use_cache=True,
        output_attentions=True,
    )


with torch.no_grad():
    expected = MODEL(
        input_ids=ALL, pixel_values=PIXELS, token_type_ids=TYPES, output_attentions=True
    )
picture = (TURNS[1] == PICTURE).nonzero()[:, 0]
for name, types, right in [
    ("token_type_ids of the second turn", TYPES[:, LENGTH:], False),
    ("token_type_ids of both turns", TYPES, True),
]:
    found = run_second_turn(types)
    differences = (found.logits - expected.logits[:, LENGTH:]).abs().amax((0, 2))
    # Who among the second picture's tokens attends to whom among them, in the first layer.
    attention = found.attentions[0][0].mean(0)[picture][:, LENGTH + picture] > 0
    print(f"{name}: largest differences of logits {[round(float(d), 4) for d in differences]}")
    print(f"  attention within the picture: {attention.int().tolist()}")
    assert bool((differences < 1e-4).all()) == right
    assert bool(attention.all()) == right
    if not right:
        assert attention.equal(torch.ones_like(attention).tril())
        assert (differences[: picture[0]] < 1e-4).all() and (differences[picture[0] :] > 0.01).all()
PYTHON
