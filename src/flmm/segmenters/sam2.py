"""SAM 2 (Ravi et al., ICLR 2025, arXiv 2408.00714), as ``Sam2Model`` of transformers.

Its successors EdgeTAM and SAM 3 have the same prompt encoder and mask decoder.

Letters: ``B`` pictures, ``P`` phrases, ``C`` width, ``e`` side of the image embedding, ``S`` side
of the input, ``H W`` picture size.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import ClassVar, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Sam2Config, Sam2Model
from transformers.modeling_utils import PreTrainedModel
from typing_extensions import override

from flmm.lmm.tiny_models import random_model
from flmm.segmenters.base import Segmenter
from flmm.segmenters.prompts import PictureEmbeddings, SegmenterMasks
from flmm.segmenters.sam import TINY_MASK_DECODER
from flmm.types import Size


class Sam2Segmenter(Segmenter):
    """SAM 2: the picture is squeezed to a square; the mask decoder also takes finer features.

    With one mask a phrase, an unstable mask is replaced by the best of the other three, until
    ``always_give_first_mask``.
    """

    model_types: ClassVar[tuple[str, ...]] = ("sam2", "sam2_video")
    hub_ids: ClassVar[tuple[str, ...]] = (
        "facebook/sam2.1-hiera-tiny",
        "facebook/sam2.1-hiera-small",
        "facebook/sam2.1-hiera-base-plus",
        "facebook/sam2.1-hiera-large",
    )
    model_class: ClassVar[type[PreTrainedModel]] = Sam2Model
    pixel_mean = (123.675, 116.28, 103.53)
    pixel_std = (58.395, 57.12, 57.375)
    encoder_prefixes = (
        "vision_encoder.", "mask_decoder.conv_s0.", "mask_decoder.conv_s1.", "no_memory_embedding"
    )  # fmt: skip

    @classmethod
    def build_tiny(cls) -> Self:
        config = Sam2Config(
            vision_config={
                "backbone_config": {
                    "model_type": "sam2_hiera_det_model",
                    "hidden_size": 8,
                    "num_attention_heads": 1,
                    "image_size": [64, 64],
                    "blocks_per_stage": [1, 1, 2, 1],
                    "embed_dim_per_stage": [8, 16, 32, 64],
                    "num_attention_heads_per_stage": [1, 2, 4, 8],
                    "window_size_per_stage": [4, 4, 4, 4],
                    "window_positional_embedding_background_size": [4, 4],
                    "global_attention_blocks": [3],
                },
                "backbone_channel_list": [64, 32, 16, 8],
                "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
                "fpn_hidden_size": 16,
            },
            prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 16},
            mask_decoder_config=TINY_MASK_DECODER,
        )
        return cls(random_model(lambda: Sam2Model(config)))

    @override
    def resized_size(self, picture: Size) -> Size:
        """Return the whole input (S, S): the aspect ratio is not kept."""
        return self.input_side, self.input_side

    @override
    def cut_to_picture(self, logits: Tensor, picture: Size) -> Tensor:
        """Return the logits: they cover the picture."""
        return logits

    def get_upsampling(self, picture: Size) -> Callable[[Tensor], Tensor]:
        """Return how (P, 4e, 4e) logits become (P, H, W)."""
        return partial(_upsample, picture=picture)

    @property
    def embedding_shapes(self) -> tuple[tuple[int, ...], ...]:
        width, side = self.hidden_size, self.embedding_side
        fine = (width // 8, 4 * side, 4 * side), (width // 4, 2 * side, 2 * side)
        return *super().embedding_shapes, *fine

    @torch.no_grad()
    def encode_pixels(self, pixels: Tensor) -> PictureEmbeddings:
        """Run the vision encoder on (B, 3, S, S).

        Returns:
            The image embedding (B, C, e, e), and the features (B, C / 8, 4e, 4e) and
            (B, C / 4, 2e, 2e), which the mask decoder adds where it upsamples.
        """
        *fine, embedding = cast(Sam2Model, self.sam).get_image_embeddings(pixels)
        return PictureEmbeddings((embedding, *fine))

    def freeze_unused(self, mask: bool, box: bool) -> None:
        """Freeze what gets no gradient; distributed training fails on unused parameters."""
        super().freeze_unused(mask, box)
        cast(Sam2Model, self.sam).no_memory_embedding.requires_grad_(False)

    def always_give_first_mask(self) -> None:
        """Switch off the replacement of unstable masks, ``dynamic_multimask_via_stability``."""
        self.mask_decoder.dynamic_multimask_via_stability = False  # type: ignore[assignment]

    def _unused_modules(self, box: bool) -> Iterator[nn.Module]:
        decoder = self.mask_decoder
        yield decoder.get_submodule("pred_obj_score_head")
        # They make the finer features, which come from ``encode``.
        yield decoder.get_submodule("conv_s0")
        yield decoder.get_submodule("conv_s1")
        if not box:
            yield self.sam.get_submodule("prompt_encoder.point_embed")

    def _embed_no_point(self, count: int) -> Tensor:
        return self.prompt_encoder.not_a_point_embed.weight.expand(count, 1, -1, -1)

    def _run_mask_decoder(
        self,
        embeddings: PictureEmbeddings,
        positions: Tensor,
        sparse: Tensor | None,
        dense: Tensor,
        multimask: bool,
    ) -> SegmenterMasks:
        embedding, *fine = embeddings.tensors
        logits, scores, *_ = self.mask_decoder(
            image_embeddings=embedding,
            image_positional_embeddings=positions,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
            high_resolution_features=fine,
        )
        return SegmenterMasks(logits[:, 0], scores[:, 0])


def _upsample(logits: Tensor, picture: Size) -> Tensor:
    return functional.interpolate(logits[:, None], picture, mode="bilinear", align_corners=False)[
        :, 0
    ]
