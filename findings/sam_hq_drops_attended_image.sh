#!/usr/bin/env bash
# transformers 5.24.0: SamHQModel's mask decoder ignores what its transformer returns for the image.
#
# Guess before looking: SAM-HQ's decoder, like SAM's and like the published SAM-HQ, upsamples the
# image tokens after two-way attention with the prompts, so replacing them changes the masks.
# Seen: with SamModel it does; with SamHQModel the masks stay the same to the last bit, because the
# decoder goes on with the image embedding of before the transformer (its rows and columns
# exchanged). The prompts then reach the masks through the mask tokens alone.
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
from transformers import SamConfig, SamHQConfig, SamHQModel, SamModel

assert transformers.__version__ == "5.24.0", transformers.__version__

VISION = {
    "hidden_size": 16, "output_channels": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": 64, "patch_size": 8, "mlp_dim": 16, "global_attn_indexes": [0], "window_size": 4,
    "num_pos_feats": 8,
}
PROMPTS = {"hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 4}
DECODER = {"hidden_size": 16, "mlp_dim": 16, "num_attention_heads": 2, "iou_head_hidden_dim": 16}


def masks_change(model_class, config) -> bool:
    """Whether masks change when the transformer's output for the image is set to 0."""
    torch.manual_seed(0)
    model = model_class(config).eval()
    inputs = {
        "pixel_values": torch.rand(1, 3, 64, 64),
        "input_points": torch.tensor([[[[20.0, 30.0]]]]),
    }
    with torch.no_grad():
        before = model(**inputs).pred_masks
        model.mask_decoder.transformer.register_forward_hook(
            lambda module, arguments, outputs: (outputs[0], torch.zeros_like(outputs[1]), *outputs[2:])
        )
        return not torch.equal(before, model(**inputs).pred_masks)


parts = {"vision_config": VISION, "prompt_encoder_config": PROMPTS, "mask_decoder_config": DECODER}
sam = masks_change(SamModel, SamConfig(**parts))
parts["mask_decoder_config"] = {**DECODER, "vit_dim": 16}
sam_hq = masks_change(SamHQModel, SamHQConfig(**parts))
print(f"masks depend on the attended image: SamModel {sam}, SamHQModel {sam_hq}")
assert sam and not sam_hq
PYTHON
