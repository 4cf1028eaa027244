#!/usr/bin/env bash
# transformers 5.24.0: Qwen2.5-VL cannot read several tokens after a cache with the whole attention mask.
#
# Guess before looking: as with every model of transformers, an attention_mask of all tokens, those in
# the cache and the new ones, belongs to a forward pass after a cache; without one the result is the
# same where nothing is padded.
# Seen: positions are worked out from the mask, for all tokens, and then meet the queries of the new
# ones alone: RuntimeError. generate gives positions of its own, so only those who read a picture once
# and then several texts after it see this. Without a mask the positions are right, and the states are
# those of the whole sequence. The Omni models fail alike.
# Fails when that changes.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet transformers==5.24.0
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from transformers import DynamicCache
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import (
    Qwen2_5_VLConfig, Qwen2_5_VLTextConfig, Qwen2_5_VLVisionConfig,
)
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel

torch.manual_seed(0)
config = Qwen2_5_VLConfig(
    vision_config=Qwen2_5_VLVisionConfig(
        depth=1, hidden_size=16, intermediate_size=16, num_heads=2, patch_size=4,
        spatial_merge_size=2, window_size=16, fullatt_block_indexes=[0], out_hidden_size=16,
    ).to_dict(),
    text_config=Qwen2_5_VLTextConfig(
        vocab_size=20, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
    ).to_dict(),
    image_token_id=10, video_token_id=11, vision_start_token_id=12, vision_end_token_id=13,
)
model = Qwen2_5_VLModel(config).eval()
# A picture of 4 x 4 patches, so 2 x 2 image tokens; then four tokens of text.
ids = torch.tensor([[12, 10, 10, 10, 10, 13, 1, 2, 3, 4]])
types = (ids == 10).int()
picture = {"pixel_values": torch.randn(16, 96), "image_grid_thw": torch.tensor([[1, 4, 4]])}
mask = torch.ones_like(ids)


@torch.no_grad()
def read(**given):
    """Read the picture into a cache, then the text after it; return the text's states."""
    cache = DynamicCache(config=config.get_text_config())
    model(
        input_ids=ids[:, :6], attention_mask=mask[:, :6], mm_token_type_ids=types[:, :6],
        cache=cache, use_cache=True, **picture,
    )
    return model(input_ids=ids[:, 6:], cache=cache, **given).last_hidden_state


with torch.no_grad():
    whole = model(
        input_ids=ids, attention_mask=mask, mm_token_type_ids=types, **picture
    ).last_hidden_state[:, 6:]
torch.testing.assert_close(read(), whole)
try:
    read(attention_mask=mask)
except RuntimeError as error:
    print("with the whole mask:", error)
else:
    raise SystemExit("changed: a whole attention mask is taken for several tokens after a cache")
PYTHON
