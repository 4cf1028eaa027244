"""The tracker of SAM 3 (Carion et al., arXiv 2511.16719), as ``Sam3TrackerModel`` of transformers.

SAM 3 finds all instances of a concept; its tracker is the part that is prompted like SAM 2.
"""

from typing import ClassVar, Self

from transformers import Sam3TrackerConfig, Sam3TrackerModel
from transformers.modeling_utils import PreTrainedModel

from flmm.lmm.tiny_models import random_model
from flmm.segmenters.sam import TINY_MASK_DECODER
from flmm.segmenters.sam2 import Sam2Segmenter


class Sam3TrackerSegmenter(Sam2Segmenter):
    """SAM 3's tracker: SAM 2's prompt encoder and mask decoder on a large ViT."""

    model_class: ClassVar[type[PreTrainedModel]] = Sam3TrackerModel
    pixel_mean = (127.5, 127.5, 127.5)
    pixel_std = (127.5, 127.5, 127.5)

    @classmethod
    def build_tiny(cls) -> Self:
        config = Sam3TrackerConfig(
            vision_config={
                "model_type": "sam3_vision_model",
                "backbone_config": {
                    "model_type": "sam3_vit_model",
                    "hidden_size": 16,
                    "intermediate_size": 16,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 2,
                    "image_size": 56,
                    "pretrain_image_size": 28,
                    "window_size": 2,
                    "global_attn_indexes": [1],
                },
                "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
                "scale_factors": [4.0, 2.0, 1.0],
                "fpn_hidden_size": 16,
            },
            prompt_encoder_config={"hidden_size": 16, "image_size": 56},
            mask_decoder_config=TINY_MASK_DECODER,
        )
        return cls(random_model(lambda: Sam3TrackerModel(config)))
