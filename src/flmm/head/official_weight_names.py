"""Weight names of the authors' checkpoints and ours, and sizes inferred from the weights.

Their SAM has the names of Meta's ``segment_anything`` package, ours those of transformers'
``SamModel``.
"""

import re
from collections.abc import Mapping

from torch import Tensor
from transformers import SamConfig

from flmm.errors import InputError

StateDict = Mapping[str, Tensor]
"""Weights by name."""

SAM_RENAME_PATTERNS = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^image_encoder\.", "vision_encoder."),
        (r"^(vision_encoder)\.blocks\.", r"\1.layers."),
        (r"^(vision_encoder)\.patch_embed\.proj\.", r"\1.patch_embed.projection."),
        (r"^(vision_encoder\.neck)\.0\.", r"\1.conv1."),
        (r"^(vision_encoder\.neck)\.1\.", r"\1.layer_norm1."),
        (r"^(vision_encoder\.neck)\.2\.", r"\1.conv2."),
        (r"^(vision_encoder\.neck)\.3\.", r"\1.layer_norm2."),
        (r"^(prompt_encoder)\.point_embeddings\.", r"\1.point_embed."),
        (
            r"^(prompt_encoder)\.pe_layer\.positional_encoding_gaussian_matrix$",
            r"\1.shared_embedding.positional_embedding",
        ),
        (r"^(prompt_encoder)\.mask_downscaling\.0\.", r"\1.mask_embed.conv1."),
        (r"^(prompt_encoder)\.mask_downscaling\.1\.", r"\1.mask_embed.layer_norm1."),
        (r"^(prompt_encoder)\.mask_downscaling\.3\.", r"\1.mask_embed.conv2."),
        (r"^(prompt_encoder)\.mask_downscaling\.4\.", r"\1.mask_embed.layer_norm2."),
        (r"^(prompt_encoder)\.mask_downscaling\.6\.", r"\1.mask_embed.conv3."),
        (r"^(mask_decoder)\.output_upscaling\.0\.", r"\1.upscale_conv1."),
        (r"^(mask_decoder)\.output_upscaling\.1\.", r"\1.upscale_layer_norm."),
        (r"^(mask_decoder)\.output_upscaling\.3\.", r"\1.upscale_conv2."),
        (r"\.norm_final_attn\.", ".layer_norm_final_attn."),
        (r"\.norm(\d)\.", r".layer_norm\1."),
    )
)

MLP_NAME_PATTERN = re.compile(
    r"^(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head))\.layers\.(\d+)\.(\w+)"
)


def rename_mask_decoder(state: StateDict) -> dict[str, Tensor]:
    """Rename the U-Net's weights from the authors' names to ours."""
    leaves = {"conv": "0", "gn": "1"}
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        match name.split("."):
            case ["conv_seg", kind]:
                renamed[f"classifier.{kind}"] = tensor
            case ["encoder", stage, _, "convs", index, ("conv" | "gn") as leaf, kind]:
                renamed[f"down_stages.{stage}.{index}.{leaves[leaf]}.{kind}"] = tensor
            case ["decoder", stage, "conv_block", "convs", index, ("conv" | "gn") as leaf, kind]:
                # They count from the finest stage, we from the coarsest, in the order of use.
                ours = _count_stages(state) - 2 - int(stage)
                renamed[f"up_stages.{ours}.convolutions.{index}.{leaves[leaf]}.{kind}"] = tensor
            case ["decoder", stage, "upsample", "interp_upsample", "1", "conv", kind]:
                renamed[f"up_stages.{_count_stages(state) - 2 - int(stage)}.project.{kind}"] = (
                    tensor
                )
            case ["decoder", stage, "upsample", "interp_upsample", "1", "gn", kind]:
                renamed[f"up_stages.{_count_stages(state) - 2 - int(stage)}.norm.{kind}"] = tensor
            case _:
                raise InputError(f"mask_head.{name} is unknown; give an F-LMM U-Net checkpoint")
    return renamed


def rename_sam(state: StateDict) -> dict[str, Tensor]:
    """Rename SAM's weights from Meta's names to those of transformers' ``SamModel``."""
    last_layers: dict[str, int] = {}
    for name in state:
        if match := MLP_NAME_PATTERN.match(name):
            last_layers[match[1]] = max(last_layers.get(match[1], 0), int(match[2]))
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if match := MLP_NAME_PATTERN.match(name):
            module, index, kind = match[1], int(match[2]), match[3]
            layer = "proj_in" if index == 0 else f"layers.{index - 1}"
            layer = "proj_out" if index == last_layers[module] else layer
            renamed[f"{module}.{layer}.{kind}"] = tensor
            continue
        for pattern, replacement in SAM_RENAME_PATTERNS:
            name = pattern.sub(replacement, name)
        renamed[name] = tensor
    return renamed


def select_by_prefix(state: StateDict, prefix: str) -> dict[str, Tensor]:
    """Return the weights whose name starts with ``prefix``, with it removed."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in state.items()
        if name.startswith(prefix)
    }


def _count_stages(state: StateDict) -> int:
    return 1 + max(int(name.split(".")[1]) for name in state if name.startswith("encoder."))


def infer_mask_decoder_sizes(state: StateDict) -> tuple[int, int, int]:
    """Return the U-Net's (in_channels, base_channels, stages).

    Raises:
        InputError: the first weight is missing.
    """
    name = "encoder.0.0.convs.0.conv.weight"
    if name not in state:
        raise InputError(f"the checkpoint has no mask_head.{name}; give an F-LMM checkpoint")
    base_channels, in_channels = state[name].shape[:2]
    return in_channels, base_channels, _count_stages(state)


def infer_sam_config(state: StateDict, decoder_heads: int) -> SamConfig:
    """Infer a whole SAM's configuration from its weights' shapes (transformers' names).

    Raises:
        InputError: a weight is missing.
    """
    try:
        return _infer_sam_config(state, decoder_heads)
    except KeyError as error:
        raise InputError(
            f"the checkpoint's sam.model has no {error.args[0]}; give an F-LMM checkpoint"
        ) from error


def _infer_sam_config(state: StateDict, decoder_heads: int) -> SamConfig:
    _, side, _, vision_width = state["vision_encoder.pos_embed"].shape
    patch = state["vision_encoder.patch_embed.projection.weight"].shape[2]
    rel_pos = _weights_by_index(state, r"vision_encoder\.layers\.(\d+)\.attn\.rel_pos_h")
    windows = {index: (weight.shape[0] + 1) // 2 for index, weight in rel_pos.items()}
    global_layers = [index for index, window in windows.items() if window == side]
    width = state["prompt_encoder.no_mask_embed.weight"].shape[1]
    blocks = _weights_by_index(
        state,
        r"mask_decoder\.transformer\.layers\.(\d+)\.cross_attn_token_to_image\.q_proj\.weight",
    )
    iou = _weights_by_index(state, r"mask_decoder\.iou_prediction_head\.layers\.(\d+)\.weight")
    return SamConfig(
        vision_config={
            "hidden_size": vision_width,
            "output_channels": state["vision_encoder.neck.conv1.weight"].shape[0],
            "num_hidden_layers": len(rel_pos),
            "num_attention_heads": vision_width // rel_pos[0].shape[1],
            "image_size": side * patch,
            "patch_size": patch,
            "mlp_dim": state["vision_encoder.layers.0.mlp.lin1.weight"].shape[0],
            "window_size": min(windows.values()),
            "global_attn_indexes": global_layers,
            "num_pos_feats": state["prompt_encoder.shared_embedding.positional_embedding"].shape[1],
        },
        prompt_encoder_config={
            "hidden_size": width,
            "image_size": side * patch,
            "patch_size": patch,
            "mask_input_channels": state["prompt_encoder.mask_embed.conv2.weight"].shape[0],
        },
        mask_decoder_config={
            "hidden_size": width,
            "mlp_dim": state["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape[0],
            "num_hidden_layers": len(blocks),
            "num_attention_heads": decoder_heads,
            "attention_downsample_rate": width // blocks[0].shape[0],
            "num_multimask_outputs": state["mask_decoder.mask_tokens.weight"].shape[0] - 1,
            "iou_head_depth": len(iou) + 2,
            "iou_head_hidden_dim": state["mask_decoder.iou_prediction_head.proj_in.weight"].shape[
                0
            ],
        },
    )


def _weights_by_index(state: StateDict, pattern: str) -> dict[int, Tensor]:
    """Return the weights whose name matches, by the index that the pattern captures."""
    matches = {name: re.fullmatch(pattern, name) for name in state}
    return {int(match[1]): state[name] for name, match in matches.items() if match}
