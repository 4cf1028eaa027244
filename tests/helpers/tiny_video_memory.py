"""Small settings of what SAM 2 and its successors have for videos, beside the tiny SAM's own."""

VIDEO_MEMORY = {
    "memory_attention_hidden_size": 16,
    "memory_attention_num_layers": 1,
    "memory_attention_feed_forward_hidden_size": 16,
    "memory_encoder_hidden_size": 16,
    "memory_encoder_output_channels": 8,
    "mask_downsampler_embed_dim": 16,
    "memory_fuser_num_layers": 1,
    "memory_fuser_embed_dim": 16,
    "memory_fuser_intermediate_dim": 16,
}
