"""The tracker of SAM 3 (Carion et al., arXiv 2511.16719), as ``Sam3TrackerModel`` of transformers.

SAM 3 finds all instances of a concept; its tracker is the part that is prompted like SAM 2.

Letters: ``B`` pictures, ``C`` width, ``e`` side of the image embedding, ``S`` side of the input.
"""

from typing import ClassVar, Self, cast

import torch
from torch import Tensor
from transformers import Sam3TrackerConfig, Sam3TrackerModel
from transformers.modeling_utils import PreTrainedModel

from flmm.lmm.tiny_models import random_model
from flmm.segmenters.prompts import PictureEmbeddings
from flmm.segmenters.sam import TINY_MASK_DECODER
from flmm.segmenters.sam2 import Sam2Segmenter


class Sam3TrackerSegmenter(Sam2Segmenter):
    """SAM 3's tracker: SAM 2's prompt encoder and mask decoder on a large ViT."""

    model_types: ClassVar[tuple[str, ...]] = ("sam3_tracker", "sam3_tracker_video", "sam3_video")
    hub_ids: ClassVar[tuple[str, ...]] = ("facebook/sam3",)
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

    @torch.no_grad()
    def encode_pixels(self, pixels: Tensor) -> PictureEmbeddings:
        """Run the vision encoder on (B, 3, S, S), as SAM 2's.

        ``Sam3TrackerModel.get_image_embeddings`` (transformers 5.24) adds what stands for "no
        memory of earlier frames" to the last map. Where the vision encoder makes a fourth, coarser
        one, that is not the image embedding; here it is, as in ``Sam3TrackerVideoModel``.
        """
        sam = cast(Sam3TrackerModel, self.sam)
        maps = sam.get_image_features(pixels, return_dict=True).fpn_hidden_states
        sizes = sam.backbone_feature_sizes
        *fine, embedding = (
            flat.permute(1, 2, 0).unflatten(2, tuple(size))
            for flat, size in zip(maps, sizes, strict=False)
        )
        no_memory = sam.no_memory_embedding.reshape(1, -1, 1, 1)
        return PictureEmbeddings((embedding + no_memory, *fine))
