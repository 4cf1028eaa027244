"""What each of transformers' types needs beyond the general rules of ``tiny_types``.

Longer than other files, since it is one table.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

Setting = object
_NONE: Mapping[str, Setting] = MappingProxyType({})


@dataclass(frozen=True)
class TinyType:
    """What a type needs beyond the general rules; names with a dot are of a part of the config."""

    config: Mapping[str, Setting] = field(default_factory=lambda: _NONE)
    images: Mapping[str, Setting] = field(default_factory=lambda: _NONE)
    """The image processor's."""
    processor: Mapping[str, Setting] = field(default_factory=lambda: _NONE)
    tokens: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Attributes of the tokenizer."""
    image_token: str = "<|image_pad|>"
    """The one that the config's image_token_id names."""
    other_tokens: tuple[str, ...] = ()
    """Special tokens that only its processor names."""
    image_processor: str = ""
    """Its class without a suffix, where transformers leaves that to the checkpoint."""
    processor_class: str = ""
    """Likewise."""
    chat_template: str | None = None
    """None for LLaVA 1.5's."""


MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
GLM = {"text_config.rope_parameters": MROPE, "text_config.initializer_range": 0.2}
PATCHES = {"patch_size": 4, "size": {"shortest_edge": 4 * 64, "longest_edge": 40 * 64}}
SQUARE = {"size": {"height": 32, "width": 32}}

QWEN4 = {
    "text_config.initializer_range": 0.25,
    "text_config.layer_types": ["indexed_attention", "linear_attention", "indexed_attention"],
    "text_config.indexer_n_heads": 16,
    "text_config.indexer_kv_heads": 1,
    "text_config.indexer_head_dim": 8,
    "text_config.indexer_budget": 16,
    "text_config.indexer_compress_ratio": 4,
}
HYBRID = {
    "text_config.initializer_range": 0.5,
    "text_config.layer_types": ["full_attention", "linear_attention", "full_attention"],
}

PIXTRAL = {"patch_size": 8, "size": {"longest_edge": 40}}
PIXTRAL_PATCHES = {"patch_size": 4, "spatial_merge_size": 2}

# Prompts are longer than index_topk, so that attention is sparse.
SPARSE = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "index_topk": 16,
    "index_head_dim": 16,
    # With fewer, many keys score exactly 0, and it would be chance which of them are chosen.
    "index_n_heads": 16,
}

HY4 = {
    **{f"text_config.{name}": value for name, value in SPARSE.items()},
    "text_config.indexer_types": ["full", "shared", "full"],
    "text_config.mlp_layer_types": ["dense", "sparse", "sparse"],
    "text_config.index_head_dim": 8,
    "text_config.q_lora_rank": 16,
    "text_config.qk_head_dim": 16,
    "text_config.learnable_sink_init": 1.0,
    "text_config.rope_parameters": MROPE,
    "vision_config.num_key_value_heads": 2,
    "vision_config.max_image_size": 64,
}
GLM5 = {
    **{f"text_config.{name}": value for name, value in SPARSE.items()},
    # Without positions, an indexer in the first layer would score words that occur twice the same.
    "text_config.layer_types": ["linear_attention", "indexed_attention", "indexed_attention"],
    "text_config.indexer_types": ["full"] * 3,
    "text_config.mlp_layer_types": ["dense", "sparse", "sparse"],
    "text_config.index_kpool": 4,
    "text_config.q_lora_rank": 16,
    "text_config.qk_rope_head_dim": 0,
    "text_config.qk_head_dim": 8,
    "text_config.head_dim": 0,
    "text_config.linear_head_dim": 8,
    "text_config.linear_num_heads": 4,
    "vision_config.projection_intermediate_size": 64,
}
OMNI = {
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
    "audio_token_id": "<|audio_pad|>",
    "audio_start_token_id": "<|audio_start|>",
    "audio_end_token_id": "<|audio_end|>",
    "audio_config.encoder_attention_heads": 4,
    "audio_config.encoder_layers": 1,
}
PINPOINTS = [[16, 32], [32, 16], [32, 32], [48, 16], [16, 48]]
TILES = {
    "size": {"shortest_edge": 16},
    "crop_size": {"height": 16, "width": 16},
    "image_grid_pinpoints": PINPOINTS,
}
LLAVA = {
    "patch_size": 4,
    "vision_feature_select_strategy": "default",
    "num_additional_image_tokens": 1,
}

# Tokens around each picture, which the model's processor expects or marks.
WRAPPED = (
    "{% for message in messages %}{{ message.role }}:\n{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:\n{% endif %}"
)

MINICPM = {
    **HYBRID,
    "text_config.initializer_range": 0.6,
    "vision_config.image_size": 64,
    "vision_config.insert_layer_id": 0,
}
GOT = {
    # Its processor always writes 256 image tokens, each of 4×4 patches.
    "vision_config.image_size": 128,
    "vision_config.patch_size": 2,
    "vision_config.global_attn_indexes": (),
    "vision_config.num_hidden_layers": 1,
    "vision_config.mlp_dim": 32,
    "vision_config.output_channels": 128,
    "vision_config.initializer_range": 0.3,
}
CHART_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<img>{{ '<imgpad>' * 64 }}</img>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant\n{% endif %}"
)
SLICES = {"patch_size": 4, "scale_resolution": 32, "max_slice_nums": 4}

TINY_TYPES: Mapping[str, TinyType] = {
    "aya_vision": TinyType(
        config={"text_config.initializer_range": 0.2, "text_config.sliding_window": 320},
        images=SQUARE,
        processor={"patch_size": 8, "img_size": 32},
        image_token="<|IMG_PATCH|>",
    ),
    "cohere_compass": TinyType(
        config={
            "text_config.rope_parameters": {"full_attention": MROPE},
            "text_config.layer_types": ["full_attention"] * 3,
            "vision_config.deepstack_visual_indexes": [0],
        },
        images=PATCHES,
        tokens={"image_token": "<|IMAGE_PAD|>"},
        image_token="<|IMAGE_PAD|>",
    ),
    "cosmos3_edge": TinyType(images=PATCHES),
    "cosmos3_omni": TinyType(images=PATCHES, processor_class="Qwen3VLProcessor"),
    "ernie4_5_vl_moe": TinyType(
        config={
            "text_config.moe_num_experts": 4,
            "text_config.moe_k": 2,
            "text_config.moe_intermediate_size": [16, 16],
            "text_config.mlp_layer_types": ["dense", "sparse", "sparse"],
            "text_config.rope_parameters": MROPE,
        },
        images=PATCHES,
        # Its processor marks those of videos with 2.
        tokens={"video_start_token": "<|video_start|>", "video_end_token": "<|video_end|>"},
        chat_template=WRAPPED,
    ),
    "exaone4_5": TinyType(config={"text_config.initializer_range": 0.8}, images=PATCHES),
    "glm4v_moe": TinyType(config=GLM, images=PATCHES, image_processor="Glm4vImageProcessor"),
    "glm5_next": TinyType(
        config=GLM5,
        images={"patch_size": 4, "min_image_tokens": 4, "max_image_tokens": 40},
    ),
    "glm_ocr": TinyType(
        config=GLM,
        images=PATCHES,
        image_processor="Glm46VImageProcessor",
        processor_class="Glm46VProcessor",
    ),
    "glmga": TinyType(config=GLM, images=PATCHES, processor_class="Glm46VProcessor"),
    "got_ocr2": TinyType(
        config=GOT,
        images={"size": {"height": 128, "width": 128}},
        image_token="<imgpad>",
    ),
    "granite4_vision": TinyType(
        config={
            "vision_config.image_size": 16,
            # Its Q-Former has a head for every 64 channels.
            "vision_config.hidden_size": 64,
            "qformer_config.hidden_size": 64,
            "qformer_config.encoder_hidden_size": 64,
            "qformer_config.num_attention_heads": 1,
            "image_grid_pinpoints": PINPOINTS,
            "downsample_rate": "1/2",
            "deepstack_layer_map": [(-2, 0)],
            "spatial_target_layers": [1, 2],
            "text_config.attention_multiplier": 0.15,
        },
        images=TILES,
        processor={**LLAVA, "downsample_rate": "1/2"},
    ),
    "granite_docling": TinyType(
        config={
            "vision_config.deepstack_visual_indexes": [0],
            "text_config.attention_multiplier": 0.35,
        },
        images=SQUARE | {"max_patches": 4},
        processor={"image_seq_len": 4},
    ),
    "hy_v4_vl": TinyType(config=HY4, images=PATCHES),
    "hyperclovax_vision_v2": TinyType(images=PATCHES),
    "janus": TinyType(
        config={"vision_config.num_image_tokens": 64, "text_config.initializer_range": 0.2},
        images=SQUARE,
        processor={"num_image_tokens": 64},
    ),
    "lfm3_vl": TinyType(
        config={
            "vision_config.layer_types": ["conv", "full_attention"],
            "text_config.layer_types": ["full_attention", "conv", "full_attention"],
        },
        images=PATCHES,
    ),
    "lighton_ocr": TinyType(
        images=PIXTRAL,
        processor=PIXTRAL_PATCHES,
    ),
    "llava_next_video": TinyType(
        config={"vision_config.image_size": 16, "image_grid_pinpoints": PINPOINTS},
        images=TILES,
        processor=LLAVA,
    ),
    "minicpmv4_6": TinyType(config=MINICPM, images=SLICES),
    "minicpmv4_7": TinyType(config=MINICPM, images=SLICES),
    "mistral3": TinyType(
        config={
            "vision_config.patch_size": 4,
            "vision_config.image_size": 40,
            "text_config.initializer_range": 0.2,
        },
        images=PIXTRAL,
        processor={**PIXTRAL_PATCHES, "image_token": "<|image_pad|>"},
    ),
    "mistral_large4": TinyType(
        config={
            "vision_config.image_size": 40,
            **{f"text_config.{name}": value for name, value in SPARSE.items()},
            "text_config.kv_source_layers": [0, 1, 2],
            "text_config.mlp_layer_types": ["dense", "sparse", "sparse"],
        },
        images=PIXTRAL,
        processor={**PIXTRAL_PATCHES, "image_token": "<|image_pad|>"},
    ),
    "paddleocr_vl": TinyType(config={"text_config.rope_parameters": MROPE}, images=PATCHES),
    "pp_chart2table": TinyType(
        config={**GOT, "vision_config.image_size": 64},
        images={"size": {"height": 64, "width": 64}},
        image_token="<imgpad>",
        chat_template=CHART_TEMPLATE,
    ),
    "qianfan_ocr": TinyType(
        config={"vision_config.image_size": (16, 16), "vision_config.patch_size": (4, 4)},
        images={"size": {"height": 16, "width": 16}, "max_patches": 2},
        processor={"image_seq_length": 4},
    ),
    "qwen2_5_omni_thinker": TinyType(
        config={**OMNI, "text_config.rope_parameters": MROPE},
        images=PATCHES,
        image_processor="Qwen2VLImageProcessor",
        processor_class="Qwen2_5OmniProcessor",
    ),
    "qwen3_5_moe": TinyType(config=HYBRID, images=PATCHES),
    "qwen3_omni_moe_thinker": TinyType(
        config=OMNI,
        images=PATCHES,
        image_processor="Qwen2VLImageProcessor",
        processor_class="Qwen3OmniMoeProcessor",
    ),
    "qwen3_vl_moe": TinyType(images=PATCHES, image_processor="Qwen2VLImageProcessor"),
    "qwen4_exp": TinyType(config=QWEN4, images=PATCHES),
    "video_llama_3": TinyType(images=PATCHES),
    "video_llava": TinyType(
        images={**SQUARE, "crop_size": {"height": 32, "width": 32}}, processor=LLAVA
    ),
}
"""Those that ``GenericAdapter`` reads."""

CHATTING_TYPES: Mapping[str, TinyType] = {
    "aria": TinyType(
        config={
            "projector_patch_to_query_dict": {49: 8},
            "max_value_projector_patch_to_query_dict": 8,
            "vision_config.image_size": 980,
            "vision_config.patch_size": 140,
        },
        processor={"size_conversion": {980: 8}},
    ),
    "idefics2": TinyType(
        config={
            "perceiver_config.resampler_depth": 2,
            "perceiver_config.resampler_head_dim": 8,
            "perceiver_config.resampler_n_heads": 4,
            "perceiver_config.resampler_n_latents": 8,
        },
        images={"size": {"shortest_edge": 16, "longest_edge": 32}, "do_image_splitting": False},
        processor={"image_seq_len": 8},
    ),
}
"""Those whose image tokens have no place in the picture, so that they only chat."""
