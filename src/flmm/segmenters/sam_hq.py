"""SAM-HQ (Ke et al., NeurIPS 2023, arXiv 2306.01567), as ``SamHQModel`` of transformers.

Letters: ``B`` pictures, ``P`` phrases, ``C`` width, ``D`` the vision encoder's width, ``e`` side of
the image embedding, ``S`` side of the input.
"""

import threading
from typing import ClassVar, Self, cast

from torch import Tensor, nn
from transformers import SamHQConfig, SamHQModel
from transformers.modeling_utils import PreTrainedModel

from flmm.lmm.tiny_models import random_model
from flmm.segmenters.prompts import PictureEmbeddings, SegmenterMasks
from flmm.segmenters.sam import TINY_MASK_DECODER, PaddingSegmenter


class SamHQSegmenter(PaddingSegmenter):
    """SAM-HQ: SAM with one more output token, whose finer mask is added to each of SAM's."""

    model_types: ClassVar[tuple[str, ...]] = ("sam_hq",)
    hub_ids: ClassVar[tuple[str, ...]] = (
        "syscv-community/sam-hq-vit-base",
        "syscv-community/sam-hq-vit-large",
    )
    model_class: ClassVar[type[PreTrainedModel]] = SamHQModel

    def __init__(self, sam: SamHQModel) -> None:
        super().__init__(sam)
        _pass_attended_image_on(self.mask_decoder)

    @classmethod
    def build_tiny(cls) -> Self:
        config = SamHQConfig(
            vision_config={
                "hidden_size": 16,
                "output_channels": 16,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": 64,
                "patch_size": 8,
                "window_size": 4,
                "global_attn_indexes": [1],
                "num_pos_feats": 8,
                "mlp_dim": 16,
            },
            prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 8},
            mask_decoder_config={**TINY_MASK_DECODER, "vit_dim": 16},
        )
        return cls(random_model(lambda: SamHQModel(config)))

    @property
    def embedding_shapes(self) -> tuple[tuple[int, ...], ...]:
        side, width = self.embedding_side, self.sam.config.vision_config.hidden_size
        return *super().embedding_shapes, (side, side, width)

    def encode_pixels(self, pixels: Tensor) -> PictureEmbeddings:
        """Run the vision encoder on (B, 3, S, S).

        Returns:
            The image embedding (B, C, e, e), and the features (B, e, e, D) after the encoder's
            first layer of global attention.
        """
        encode = cast(SamHQModel, self.sam).get_image_embeddings
        embedding, intermediate = encode(pixels)  # type: ignore[no-untyped-call]
        return PictureEmbeddings((embedding, intermediate[0]))

    def _run_mask_decoder(
        self,
        embeddings: PictureEmbeddings,
        positions: Tensor,
        sparse: Tensor | None,
        dense: Tensor,
        multimask: bool,
    ) -> SegmenterMasks:
        embedding, intermediate = embeddings.tensors
        logits, scores = self.mask_decoder(
            image_embeddings=embedding,
            image_positional_embeddings=positions,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
            hq_token_only=False,
            intermediate_embeddings=[intermediate],
        )
        return SegmenterMasks(logits[:, 0], scores[:, 0])


def _pass_attended_image_on(decoder: nn.Module) -> None:
    """Make a mask decoder upsample what its transformer returns for the image.

    ``SamHQMaskDecoder`` of transformers (5.24) drops it and upsamples the image embedding of before
    the transformer, rows and columns exchanged, unlike SAM and the published SAM-HQ.
    """
    # Of this thread: others may decode with the same weights.
    attended = threading.local()

    def keep(_module: nn.Module, _inputs: object, outputs: tuple[Tensor, Tensor]) -> None:
        attended.image = outputs[1]

    def replace(_module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        image: Tensor = attended.__dict__.pop("image")  # (P, 1, e · e, C)
        return (image.transpose(2, 3).reshape(inputs[0].shape),)

    decoder.get_submodule("transformer").register_forward_hook(keep)
    decoder.get_submodule("upscale_conv1").register_forward_pre_hook(replace)
