#!/usr/bin/env bash
# transformers 5.24.0: Llama 3.2 Vision's (mllama) tiles attend to the empty tiles that fill a picture.
#
# Guess before looking: aspect_ratio_mask is 1 for a picture's tiles and 0 for those that fill up
# max_num_tiles; a picture's tiles attend to each other alone, and what stands in the others changes
# nothing, as with an attention_mask of 0.
# Seen: the mask is padding times padding, so it is closed only from padding to padding. A token of a
# picture of one tile has most of its attention in the three empty tiles (random weights), and what
# stands there changes its features. Meta's own code has the same product, so this is how the released
# weights are used: leaving empty tiles out to save time is not equivalent.
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
from transformers import MllamaVisionModel
from transformers.models.mllama.configuration_mllama import MllamaVisionConfig

assert transformers.__version__ == "5.24.0", transformers.__version__

CONFIG = MllamaVisionConfig(
    hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_global_layers=1,
    attention_heads=2, vision_output_dim=48, intermediate_layers_indices=[0, 1], image_size=16,
    patch_size=4, initializer_range=0.3, attn_implementation="eager",
)
torch.manual_seed(0)
model = MllamaVisionModel(CONFIG).eval()
shares = []


def keep_share(module, arguments, outputs) -> None:
    """Keep the share of the first tile's attention that goes to the other tiles."""
    weights = outputs[1].unflatten(-1, (4, -1)).unflatten(-3, (4, -1))
    shares.append(float(weights[:, :, 0, :17, 1:].sum((-1, -2)).mean()))


model.transformer.layers[0].self_attn.register_forward_hook(keep_share)
inputs = {
    "aspect_ratio_ids": torch.tensor([[1]]), "aspect_ratio_mask": torch.tensor([[[1, 0, 0, 0]]])
}
empty = torch.zeros(1, 1, 4, 3, 16, 16)
empty[:, :, 0] = torch.rand(3, 16, 16)
filled = empty.clone()
filled[:, :, 1:] = torch.rand(3, 3, 16, 16)
with torch.no_grad():
    features = [model(each, **inputs).last_hidden_state[0, 0, 0] for each in (empty, filled)]
change = float((features[0] - features[1]).abs().max())
print(f"attention to the empty tiles {shares[0]:.2f}; change of the one tile's features {change:.2f}")
assert shares[0] > 0.5 and change > 0.1
PYTHON
