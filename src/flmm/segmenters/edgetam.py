"""EdgeTAM (Zhou et al., CVPR 2025, arXiv 2501.07256), as ``EdgeTamModel`` of transformers.

SAM 2 with a convolutional vision encoder (RepViT, from the package timm).

Letters: ``B`` pictures, ``S`` side of the input.
"""

from typing import ClassVar, Self

from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, EdgeTamConfig, EdgeTamModel
from transformers.configuration_utils import PretrainedConfig
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.generic import ModelOutput

from flmm.lmm.tiny_models import random_model
from flmm.segmenters.sam import TINY_MASK_DECODER
from flmm.segmenters.sam2 import Sam2Segmenter


class EdgeTamSegmenter(Sam2Segmenter):
    """EdgeTAM: SAM 2 for phones; its vision encoder needs the package timm."""

    model_types: ClassVar[tuple[str, ...]] = ("edgetam", "edgetam_video")
    hub_ids: ClassVar[tuple[str, ...]] = ("yonigozlan/EdgeTAM-hf",)
    model_class: ClassVar[type[PreTrainedModel]] = EdgeTamModel

    @classmethod
    def build_tiny(cls) -> Self:
        """Build a tiny EdgeTAM on a stand-in for RepViT, so that timm is not needed."""
        AutoConfig.register(_TinyBackboneConfig.model_type, _TinyBackboneConfig, exist_ok=True)
        AutoModel.register(_TinyBackboneConfig, _TinyBackbone, exist_ok=True)
        config = EdgeTamConfig(
            vision_config={
                "backbone_config": _TinyBackboneConfig(),
                "backbone_channel_list": [64, 32, 16, 8],
                "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
                "fpn_hidden_size": 16,
            },
            prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 16},
            mask_decoder_config=TINY_MASK_DECODER,
        )
        return cls(random_model(lambda: EdgeTamModel(config)))


class _TinyBackboneConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
    model_type = "flmm_tiny_backbone"


class _TinyBackbone(PreTrainedModel):  # type: ignore[no-untyped-call]
    """Four convolutions whose outputs have the strides of RepViT's: 4, 8, 16 and 32."""

    config_class = _TinyBackboneConfig

    def __init__(self, config: _TinyBackboneConfig) -> None:
        super().__init__(config)
        channels = (3, 8, 16, 32, 64)
        self.stages = nn.ModuleList(
            nn.Conv2d(channels[stage], channels[stage + 1], stride, stride)
            for stage, stride in enumerate((4, 2, 2, 2))
        )
        self.norm = nn.BatchNorm2d(8)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(self, pixel_values: Tensor) -> ModelOutput:
        """Return the features of all stages, (B, 3, S, S) to four of (B, channels, ...)."""
        features = [self.norm(self.stages[0](pixel_values))]
        for stage in self.stages[1:]:
            features.append(stage(features[-1]))
        return ModelOutput(  # type: ignore[no-untyped-call]
            last_hidden_state=features, hidden_states=None
        )
