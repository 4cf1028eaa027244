"""A small random checkpoint with the names and layout of the published ones."""

import torch
from tiny_head import tiny_sam
from torch import Tensor

PERCEPTRON_LAYERS = {"layers.0": 1, "proj_in": 0, "proj_out": 2}
OURS_TO_META = (
    ("vision_encoder.", "image_encoder."),
    ("prompt_encoder.shared_embedding.positional_embedding",
     "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"),
    ("encoder.point_embed.", "encoder.point_embeddings."),
    ("mask_embed.conv1", "mask_downscaling.0"),
    ("mask_embed.layer_norm1", "mask_downscaling.1"),
    ("mask_embed.conv2", "mask_downscaling.3"),
    ("mask_embed.layer_norm2", "mask_downscaling.4"),
    ("mask_embed.conv3", "mask_downscaling.6"),
    ("upscale_conv1", "output_upscaling.0"),
    ("upscale_layer_norm", "output_upscaling.1"),
    ("upscale_conv2", "output_upscaling.3"),
    ("layer_norm", "norm"),
)  # fmt: skip


def official_state(maps: int = 6, layers: int = 2, hidden_size: int = 10) -> dict[str, Tensor]:
    """Return a checkpoint's tensors, without SAM's image encoder as in the published ones.

    ``maps``: those of a phrase, of all views; ``layers``, ``hidden_size``: the LMM's.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in tiny_sam().state_dict().items():
        if not name.startswith(("prompt_encoder", "mask_decoder")):
            continue
        for ours, theirs in OURS_TO_META:
            name = name.replace(ours, theirs)
        if "mlps" in name or "iou_prediction" in name:
            for ours, index in PERCEPTRON_LAYERS.items():
                name = name.replace(f".{ours}.", f".layers.{index}.")
        state[f"sam.model.{name}"] = tensor
    for stage, (before, after) in enumerate([(maps, 4), (4, 8)]):
        for index, channels in enumerate((before, after)):
            block = f"mask_head.encoder.{stage}.{min(stage, 1)}.convs.{index}"
            state |= norm(f"{block}.gn", after)
            state[f"{block}.conv.weight"] = torch.randn(after, channels, 3, 3)
    for index in (0, 1):
        block = f"mask_head.decoder.0.conv_block.convs.{index}"
        state |= norm(f"{block}.gn", 4)
        state[f"{block}.conv.weight"] = torch.randn(4, 8 if index == 0 else 4, 3, 3)
    up = "mask_head.decoder.0.upsample.interp_upsample.1"
    state |= norm(f"{up}.gn", 4)
    state[f"{up}.conv.weight"] = torch.randn(4, 8, 1, 1)
    state["mask_head.conv_seg.weight"] = torch.randn(1, 4, 1, 1)
    state["mask_head.conv_seg.bias"] = torch.randn(1)
    state["text_proj.weight"] = torch.randn(16, hidden_size)
    state["text_proj.bias"] = torch.randn(16)
    state["text_layer_weights"] = torch.randn(layers)
    return state


def norm(name: str, channels: int) -> dict[str, Tensor]:
    return {f"{name}.weight": torch.randn(channels), f"{name}.bias": torch.randn(channels)}
