"""The tracker in the files of SAM 3, as the hub has them: with the detector, for videos."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from tiny_head import scramble
from tiny_video_memory import VIDEO_MEMORY
from transformers import Sam3VideoConfig, Sam3VideoModel

from flmm.segmenters.auto import load_segmenter
from flmm.segmenters.sam3_tracker import Sam3TrackerSegmenter


def build_sam3() -> Sam3VideoModel:
    tracker = Sam3TrackerSegmenter.build_tiny().sam.config
    vision = {**tracker.vision_config.to_dict(), "scale_factors": [4.0, 2.0, 1.0, 0.5]}
    small = {"hidden_size": 16, "num_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    text = {
        "model_type": "clip_text_model",
        "vocab_size": 64,
        "hidden_size": 16,
        "intermediate_size": 16,
        "projection_dim": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 8,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    detector = {
        "model_type": "sam3",
        "vision_config": vision,
        "text_config": text,
        "geometry_encoder_config": small,
        "detr_encoder_config": small,
        "detr_decoder_config": {**small, "num_queries": 4},
        "mask_decoder_config": {"hidden_size": 16, "num_attention_heads": 2},
    }
    tracker_of_videos = {
        "model_type": "sam3_tracker_video",
        "vision_config": vision,
        "prompt_encoder_config": tracker.prompt_encoder_config.to_dict(),
        "mask_decoder_config": tracker.mask_decoder_config.to_dict(),
        "image_size": 56,
        **VIDEO_MEMORY,
    }
    config = Sam3VideoConfig(detector_config=detector, tracker_config=tracker_of_videos)
    sam3 = Sam3VideoModel(config)
    scramble(sam3)
    sam3.train(False)
    return sam3


def test_tracker_encodes_pictures_as_within_sam3(tmp_path: Path) -> None:
    sam3 = build_sam3()
    sam3.config.save_pretrained(tmp_path)
    # Not save_pretrained, which in transformers 5.24 writes the prefix "tracker_model" twice.
    weights = {name: weight.contiguous() for name, weight in sam3.state_dict().items()}
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    segmenter = load_segmenter(tmp_path).eval()
    assert isinstance(segmenter, Sam3TrackerSegmenter)
    pixels = torch.rand(1, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    embedding, *fine = segmenter.encode_pixels(pixels).tensors
    with torch.no_grad():
        vision = sam3.detector_model.get_vision_features(pixel_values=pixels)
        *expected, last = sam3.get_vision_features_for_tracker(vision)[0]
        expected.append(last + sam3.tracker_model.no_memory_embedding)
    for found, flat in zip([*fine, embedding], expected, strict=True):
        torch.testing.assert_close(found.flatten(2).permute(2, 0, 1), flat, atol=1e-4, rtol=1e-4)
