#!/usr/bin/env bash
# transformers 5.24.0: a picture's SAM masks depend on how many points others of its batch have.
#
# Guess before looking: for a picture with fewer points than another, the processor adds points
# with the label -10, and the models' documentation calls that "a padding point, thus should be
# ignored", so a picture has in a batch the masks that it has alone, to rounding.
# Seen: the prompt encoder makes padding points zero vectors, and nothing tells the mask decoder
# to leave them out: its attention takes them as prompts, with the keys and values that its biases
# give. Beside a picture of two points, a picture of one gets other masks and other scores, with
# SamModel, SamHQModel and Sam2Model; beside another of one point it gets its own. Nothing is
# said. And SamProcessor adds one label only: beside a picture of three points it stops with a
# ValueError. (The weights are random here, so how much the masks change says nothing about
# trained ones.)
# Fails when that changes.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet transformers==5.24.0 pillow==12.3.0
"$folder/venv/bin/python" - <<'PYTHON'
import torch
import transformers
from PIL import Image
from transformers import (
    Sam2Config,
    Sam2HieraDetConfig,
    Sam2Model,
    Sam2VisionConfig,
    SamConfig,
    SamHQConfig,
    SamHQModel,
    SamModel,
    SamProcessor,
)
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

assert transformers.__version__ == "5.24.0", transformers.__version__

VISION = {
    "hidden_size": 16, "output_channels": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": 64, "patch_size": 8, "mlp_dim": 16, "global_attn_indexes": [0], "window_size": 4,
    "num_pos_feats": 8,
}
PROMPTS = {"hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 4}
DECODER = {"hidden_size": 16, "mlp_dim": 16, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
HIERA = {
    "hidden_size": 8, "num_attention_heads": 1, "image_size": [64, 64],
    "blocks_per_stage": [1, 2, 2, 1], "embed_dim_per_stage": [8, 16, 32, 64],
    "num_attention_heads_per_stage": [1, 1, 1, 1], "window_size_per_stage": [2, 2, 2, 2],
    "global_attention_blocks": [4], "window_positional_embedding_background_size": [2, 2],
}
sam = SamConfig(
    vision_config=VISION, prompt_encoder_config=PROMPTS, mask_decoder_config=DECODER
)
sam_hq = SamHQConfig(
    vision_config=VISION,
    prompt_encoder_config=PROMPTS,
    mask_decoder_config={**DECODER, "vit_dim": 16},
)
sam2 = Sam2Config(
    vision_config=Sam2VisionConfig(
        backbone_config=Sam2HieraDetConfig(**HIERA),
        backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
        fpn_hidden_size=16,
        num_feature_levels=3,
    ),
    prompt_encoder_config={**PROMPTS, "patch_size": 16},
    mask_decoder_config=DECODER,
)
processor = SamProcessor(
    SamImageProcessorPil(
        size={"longest_edge": 64},
        pad_size={"height": 64, "width": 64},
        mask_size={"longest_edge": 32},
        mask_pad_size={"height": 32, "width": 32},
    )
)
torch.manual_seed(0)
noise = torch.randint(0, 256, (2, 48, 64, 3), dtype=torch.uint8)
pictures = [Image.frombytes("RGB", (64, 48), bytes(one.flatten().tolist())) for one in noise]
ONE, TWO = [[20.0, 30.0]], [[50.0, 10.0], [5.0, 40.0]]


def prepared(images, points):
    """What the processor makes of pictures, each with the points of its object."""
    labels = [[1] * len(one_object) for one_object in points]
    inputs = processor(
        images=images, input_points=points, input_labels=labels, return_tensors="pt"
    )
    return {
        "pixel_values": inputs["pixel_values"].double(),
        "input_points": inputs["input_points"].double(),
        "input_labels": inputs["input_labels"].long(),
    }


def spread(model):
    """Give the weights values so large that attention prefers some tokens to others."""
    torch.manual_seed(0)
    for weights in model.parameters():
        if weights.ndim > 1:
            torch.nn.init.normal_(weights, std=weights[0].numel() ** -0.5)
        else:
            weights.data += 0.1 * torch.randn_like(weights)
    return model.double().eval()


alone = prepared(pictures[:1], [ONE])
beside_one = prepared(pictures, [ONE, TWO[:1]])
beside_two = prepared(pictures, [ONE, TWO])
print(f"labels of the processor: {beside_two['input_labels'].tolist()}")
assert beside_two["input_labels"].tolist() == [[[1, -10]], [[1, 1]]]
try:
    prepared(pictures, [ONE, [*TWO, *ONE]])
except ValueError as error:
    print(f"one point beside three: ValueError: {error}")
else:
    raise AssertionError("the processor padded two points")
for model_class, config in ((SamModel, sam), (SamHQModel, sam_hq), (Sam2Model, sam2)):
    model = spread(model_class(config))
    with torch.no_grad():
        own = model(**alone)
        for name, inputs, same in (
            ("beside a picture of one point", beside_one, True),
            ("beside a picture of two points", beside_two, False),
        ):
            found = model(**inputs)
            masks, scores = found.pred_masks[0, 0], found.iou_scores[0, 0]
            off = float((masks - own.pred_masks[0, 0]).abs().max() / own.pred_masks.std())
            pixels = int(((masks > 0) != (own.pred_masks[0, 0] > 0)).sum())
            moved = float((scores - own.iou_scores[0, 0]).abs().max())
            print(
                f"{model_class.__name__}, {name}: logits off by {off:.2g} standard deviations,"
                f" {pixels} of {masks.numel()} pixels differ, scores by {moved:.2g}"
            )
            if same:
                assert pixels == 0 and max(off, moved) < 1e-9
            else:
                assert pixels > 0 and off > 0.01 and moved > 0.001
PYTHON
