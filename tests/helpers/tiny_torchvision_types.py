"""What types need beyond the general rules whose image processors exist only for torchvision."""

from collections.abc import Mapping

from tiny_type_settings import MINICPM, PATCHES, SLICES, SQUARE, TinyType

_LATENT_ATTENTION = {
    "text_config.kv_lora_rank": 16,
    "text_config.q_lora_rank": 16,
    "text_config.qk_rope_head_dim": 8,
    "text_config.qk_nope_head_dim": 8,
    "text_config.qk_head_dim": 16,
    "text_config.v_head_dim": 8,
    "text_config.num_key_value_heads": 4,
    "text_config.n_group": 1,
    "text_config.topk_group": 1,
    "text_config.first_k_dense_replace": 1,
}
_MUSE = {
    "out_hidden_size": 128,
    "projector_hidden_size": 32,
    "vision_config.pos_emb_height": 8,
    "vision_config.pos_emb_width": 8,
}

TORCHVISION_TYPES: Mapping[str, TinyType] = {
    "cohere2_vision": TinyType(
        config={"alignment_intermediate_size": 64, "text_config.initializer_range": 0.2},
        images={**SQUARE, "patch_size": 4, "max_patches": 4},
        tokens={"img_line_break_token": "[IMG_BREAK]"},
    ),
    "gemma4_unified": TinyType(
        config={
            "vision_config.pooling_kernel_size": 2,
            "text_config.layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "text_config.per_layer_config": {},
        },
        images={"patch_size": 4, "pooling_kernel_size": 2, "max_soft_tokens": 70},
        tokens={"audio_token": "<|audio|>", "boa_token": "<|boa|>", "eoa_token": "<|eoa|>"},
    ),
    "kimi_k25": TinyType(
        config={
            **_LATENT_ATTENTION,
            "projection_hidden_size": 32,
            "vision_config.pos_emb_height": 8,
            "vision_config.pos_emb_width": 8,
        },
        images={"patch_size": 4, "size": {"max_height": 32, "max_width": 32}, "max_patches": 64},
    ),
    "lfm2_vl": TinyType(
        config={
            "projector_hidden_size": 32,
            "vision_config.num_patches": 64,
            "text_config.layer_types": ["full_attention", "conv", "full_attention"],
        },
        images={
            "encoder_patch_size": 4,
            "tile_size": 32,
            "min_image_tokens": 4,
            "max_image_tokens": 16,
            "max_tiles": 4,
            "max_num_patches": 64,
        },
        other_tokens=tuple(
            f"<|img_row_{row}_col_{col}|>" for row in (1, 2, 3, 4) for col in (1, 2, 3, 4)
        ),
        tokens={"image_thumbnail_token": "<|img_thumbnail|>"},
    ),
    "minicpm_ocr": TinyType(
        # Normalized queries and keys: scores grow with the width of heads.
        config={**MINICPM, "text_config.head_dim": 32},
        images={**SLICES, "scale_resolution": 16},
    ),
    "minimax_m3_vl": TinyType(
        config={
            "projector_hidden_size": 32,
            "merged_hidden_size": 128,
            "text_config.layer_types": ["full_attention", "minimax_m3_sparse", "minimax_m3_sparse"],
            # Prompts are longer than the chosen blocks.
            "text_config.index_block_size": 8,
            "text_config.index_topk_blocks": 3,
            "text_config.index_n_heads": 2,
        },
        images=PATCHES,
        image_token="]<]image[>[",
        other_tokens=("]<]image[>[", "]<]video[>[", "]<]start of image[>[", "]<]end of image[>["),
    ),
    "molmo2": TinyType(
        config={
            "vision_config.image_size": [28, 28],
            "vision_config.num_position_embeddings": 49,
            "vision_config.num_key_value_heads": 2,
            "adapter_config.num_key_value_heads": 4,
            "adapter_config.text_hidden_size": 32,
            "adapter_config.vision_feature_layer": [1, 0],
            # Normalized queries and keys: scores grow with the width of heads.
            "text_config.head_dim": 64,
        },
        # As its checkpoints': an odd number of patches, of which two by two become a token.
        images={
            "size": {"height": 28, "width": 28},
            "patch_size": 4,
            "overlap_margins": [1, 1],
            "max_crops": 2,
        },
        image_token="<im_patch>",
        other_tokens=(
            "<im_patch>",
            "<im_col>",
            "<im_start>",
            "<low_res_im_start>",
            "<im_end>",
            "<im_low>",
            "<frame_start>",
            "<frame_end>",
        ),
    ),
    "muse_glimmer": TinyType(
        config=_MUSE,
        images={"patch_size": 4, "max_image_tokens": 40},
        image_token="<|patch|>",
        other_tokens=("<|patch|>", "<|image_start|>", "<|image_end|>", "<|video|>"),
    ),
    "muse_spark": TinyType(
        config={
            **_MUSE,
            "audio_config.num_hidden_layers": 4,
            "text_config.initializer_range": 0.25,
        },
        images={"patch_size": 4, "max_image_tokens": 40},
    ),
}
