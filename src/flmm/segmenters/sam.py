"""SAM (Kirillov et al., ICCV 2023, arXiv 2304.02643), as ``SamModel`` of transformers.

Letters: ``B`` pictures, ``P`` phrases, ``e`` side of the image embedding, ``S`` side of the input,
``H W`` picture size.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import ClassVar, Self, cast

from torch import Tensor, nn
from torch.nn import functional
from transformers import SamConfig, SamModel
from typing_extensions import override

from flmm.lmm.tiny_models import random_model
from flmm.segmenters.base import Segmenter
from flmm.segmenters.prompts import PictureEmbeddings, SegmenterMasks
from flmm.types import Size

TINY_MASK_DECODER = {
    "hidden_size": 16,
    "mlp_dim": 16,
    "num_attention_heads": 2,
    "iou_head_hidden_dim": 16,
}
"""Settings of the mask decoders of the families' tiny random models."""


class PaddingSegmenter(Segmenter):
    """A segmenter whose input keeps the picture's aspect ratio: it is padded below or right."""

    pixel_mean = (123.675, 116.28, 103.53)
    pixel_std = (58.395, 57.12, 57.375)

    def resized_size(self, picture: Size) -> Size:
        """Return the (height, width) whose longer side is ``S``, rounded as in SAM."""
        return _scaled_size(picture, self.input_side)

    def cut_to_picture(self, logits: Tensor, picture: Size) -> Tensor:
        """Cut (..., 4e, 4e) logits to (..., a, b) over the picture, ``max(a, b) == 4e``."""
        height, width = _scaled_size(picture, self.low_resolution_side)
        return logits[..., :height, :width]

    def get_upsampling(self, picture: Size) -> Callable[[Tensor], Tensor]:
        """Return how (P, 4e, 4e) logits over the padded input become (P, H, W)."""
        return partial(_upsample_padded, input_side=self.input_side, picture=picture)

    @override
    def always_give_first_mask(self) -> None:
        """Do nothing: SAM has no rule for another mask in the first one's place."""

    @override
    def _embed_no_point(self, count: int) -> Tensor | None:
        return None

    def _unused_modules(self, box: bool) -> Iterator[nn.Module]:
        yield self.prompt_encoder.not_a_point_embed
        # Labels 0 and 1 are points, 2 and 3 a box's corners.
        labels = list(self.sam.get_submodule("prompt_encoder.point_embed").children())
        yield from labels[:2] if box else labels


class SamSegmenter(PaddingSegmenter):
    """SAM: a plain ViT; MedSAM, SlimSAM and others have its architecture."""

    model_types: ClassVar[tuple[str, ...]] = ("sam",)
    hub_ids: ClassVar[tuple[str, ...]] = (
        "facebook/sam-vit-base",
        "facebook/sam-vit-large",
        "facebook/sam-vit-huge",
    )
    model_class = SamModel

    @classmethod
    def build_tiny(cls) -> Self:
        config = SamConfig(
            vision_config={
                "hidden_size": 16,
                "output_channels": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 64,
                "patch_size": 8,
                "window_size": 4,
                "global_attn_indexes": [0],
                "num_pos_feats": 8,
                "mlp_dim": 16,
            },
            prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 8},
            mask_decoder_config=TINY_MASK_DECODER,
        )
        return cls(random_model(lambda: SamModel(config)))

    def encode_pixels(self, pixels: Tensor) -> PictureEmbeddings:
        return PictureEmbeddings((cast(SamModel, self.sam).get_image_embeddings(pixels),))

    def _run_mask_decoder(
        self,
        embeddings: PictureEmbeddings,
        positions: Tensor,
        sparse: Tensor | None,
        dense: Tensor,
        multimask: bool,
    ) -> SegmenterMasks:
        logits, scores = self.mask_decoder(
            image_embeddings=embeddings.tensors[0],
            image_positional_embeddings=positions,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
        )
        return SegmenterMasks(logits[:, 0], scores[:, 0])


def _upsample_padded(logits: Tensor, input_side: int, picture: Size) -> Tensor:
    # In two steps, through the input's size, as SAM itself does.
    height, width = _scaled_size(picture, input_side)
    square = functional.interpolate(
        logits[:, None], (input_side, input_side), mode="bilinear", align_corners=False
    )
    return functional.interpolate(
        square[..., :height, :width], picture, mode="bilinear", align_corners=False
    )[:, 0]


def _scaled_size(picture: Size, side: int) -> Size:
    """Return the picture's size when its longer side is ``side``, rounded as in SAM."""
    scale = side / max(picture)
    height, width = (max(int(length * scale + 0.5), 1) for length in picture)
    return height, width
