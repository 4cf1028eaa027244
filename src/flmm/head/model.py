"""The grounding head, which is all that is trained.

attention maps -> mask decoder -> crop to the picture -> mask refiner (paper section 3).

Letters: ``M`` layers, ``N`` heads, ``h w`` image-token grid, ``P`` phrases, ``B`` pictures, ``T``
tokens, ``D`` LLM width, ``C`` SAM's width, ``H W`` picture size, ``h'' w''`` size of the decoder's
logits over the picture's visible part.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from flmm.errors import InputError
from flmm.head.config import HeadConfig
from flmm.head.phrase_score import compute_signals
from flmm.masks.low_resolution import LowResolutionLogits
from flmm.masks.refiner import MaskRefiner, MaskResolution
from flmm.masks.selector import KeywordSelector
from flmm.masks.unet import MaskDecoder
from flmm.pictures.geometry import crop_to_picture, resize_to_picture
from flmm.segmenters.base import Segmenter
from flmm.segmenters.prompts import PictureEmbeddings
from flmm.types import ImageGeometry


@dataclass(frozen=True)
class HeadOutput:
    """The logits of both stages; the mask is where they are above 0."""

    mask_logits: Tensor
    """(P, h'', w''), from the mask decoder, over the picture's visible part."""
    refined_logits: Tensor
    """(P, H, W), or at "low" resolution (P, a, b) with SAM's ``low_resolution_side`` as the longer
    side; the decoder's if the head does not refine."""
    is_refined: bool = True
    """Whether SAM refined the masks."""
    low_resolution: LowResolutionLogits | None = None
    """What the refined logits were enlarged from."""


class GroundingHead(nn.Module):
    """The trained model from a frozen LMM's attention and hidden states to masks (paper section 3).

    Args:
        config: sizes and options.
        segmenter: the refiner's SAM; its vision encoder is frozen, its prompt encoder and mask
            decoder are trained and saved.

    Raises:
        InputError: the head was trained with a SAM of another family or size.
    """

    def __init__(self, config: HeadConfig, segmenter: Segmenter) -> None:
        super().__init__()
        self.config = _check_and_fill_in_refiner(config, segmenter)
        self.mask_decoder = MaskDecoder(
            config.num_maps,
            config.base_channels,
            config.stages,
            config.upsample_input,
            config.normalise,
        )
        self.refiner = MaskRefiner(segmenter, config.use_mask, config.use_box, config.use_text)
        self.text_projection = nn.Linear(config.hidden_size, self.refiner.hidden_size)
        self.text_projection.requires_grad_(config.refine and config.use_text)
        if not config.refine:
            self.refiner.requires_grad_(False)
        self.layer_weights = nn.Parameter(torch.zeros(config.layers))
        self.selector = (
            KeywordSelector(config.hidden_size, config.selector_width) if config.selector else None
        )

    def forward(
        self,
        attention: Tensor,
        hidden_states: Sequence[Tensor],
        geometry: ImageGeometry,
        image_embeddings: PictureEmbeddings | None,
        picture_indices: Tensor | None = None,
        resolution: MaskResolution = "picture",
    ) -> HeadOutput:
        """Return the mask logits of all phrases in one batch.

        Args:
            attention: (P, config.num_maps, h, w), merged (``merge_token_maps``) and selected
                (``HeadConfig.select_maps``) maps, not negative.
            hidden_states: P tensors (M, T, D), T each phrase's own number of tokens.
            geometry: of the picture; the same for all pictures if there are several.
            image_embeddings: of B pictures, from ``refiner.encode``; None for a head that does not
                refine.
            picture_indices: (P,) int64 in 0..B-1, each phrase's picture; None if there is one.
            resolution: of the refined logits: "picture", or "low" for training.

        Raises:
            InputError: no phrase, no embeddings for the refiner, or shapes that do not fit this
                head.
        """
        if not len(attention) or len(attention) != len(hidden_states):
            raise InputError(
                f"got attention of {len(attention)} phrases and hidden states of "
                f"{len(hidden_states)}; give both for the same phrases, at least one"
            )
        mask_logits = self._decode_maps(attention, geometry)
        if not self.config.refine:
            return self._build_decoded(mask_logits, geometry, resolution)
        if image_embeddings is None:
            raise InputError("this head refines its masks with SAM; encode the picture with it")
        refined = self.refiner.refine(
            mask_logits,
            self.text_prompts(hidden_states),
            geometry,
            image_embeddings,
            picture_indices,
        )
        refined_logits = self.refiner.resize(refined, geometry.picture, resolution)
        return HeadOutput(mask_logits, refined_logits, True, refined)

    def decode(self, attention: Tensor, geometry: ImageGeometry) -> HeadOutput:
        """Return the decoder's masks in the place of refined ones, as from ``forward``."""
        return self._build_decoded(self._decode_maps(attention, geometry), geometry, "picture")

    def _decode_maps(self, attention: Tensor, geometry: ImageGeometry) -> Tensor:
        """Return the decoder's (P, h'', w'') logits."""
        precision = self.refiner.segmenter.precision
        with precision.computing_on(attention.device):
            logits = self.mask_decoder(attention)[:, 0]
        return crop_to_picture(precision.restore(logits), geometry)

    def _build_decoded(
        self, mask_logits: Tensor, geometry: ImageGeometry, resolution: MaskResolution
    ) -> HeadOutput:
        low = LowResolutionLogits(mask_logits, partial(resize_to_picture, geometry=geometry))
        final_logits = low.to_picture() if resolution == "picture" else mask_logits
        return HeadOutput(mask_logits, final_logits, False, low)

    def score_phrases(
        self,
        attention: Tensor,
        log_probabilities: Sequence[Tensor],
        output: HeadOutput,
        geometry: ImageGeometry,
    ) -> list[float | None]:
        """Return the P phrases' scores, in 0..1 (``phrase_score``).

        Those of a head without a calibration are None: ``compute_mean_probability`` stands for
        them.

        Args:
            attention, geometry: as in ``forward``.
            log_probabilities: P tensors (n,), from ``compute_log_probabilities``.
            output: the masks of these phrases, at the picture's resolution.
        """
        calibration = self.config.score_calibration
        if calibration is None:
            return [None] * len(attention)
        signals = compute_signals(
            attention,
            log_probabilities,
            output.mask_logits,
            output.refined_logits,
            geometry,
            output.is_refined,
        )
        weights = calibration.refined if output.is_refined else calibration.decoder
        return [weights.compute_score(each) for each in signals]

    def weigh_layers(self, hidden_states: Tensor) -> Tensor:
        """Return the sum of (M, T, D) states over the layers, weighted by a softmax: (T, D)."""
        expected = (self.config.layers, self.config.hidden_size)
        if (hidden_states.shape[0], hidden_states.shape[-1]) != expected:
            raise InputError(
                f"hidden states are {tuple(hidden_states.shape)}, the head needs "
                f"({expected[0]}, tokens, {expected[1]}); use the head made for this LMM"
            )
        weights = self.layer_weights.softmax(dim=0)
        return torch.einsum("m,mtd->td", weights, hidden_states.to(weights.dtype))

    def text_prompts(self, hidden_states: Sequence[Tensor]) -> list[Tensor]:
        """Return a sparse prompt for each token: P tensors (M, T, D) to P tensors (T, C)."""
        # Projected in one call, because a phrase has only one to three tokens.
        prompts = self.text_projection(self.weigh_layers(torch.cat(list(hidden_states), dim=1)))
        return list(prompts.split([states.shape[1] for states in hidden_states]))

    def keyword_logits(self, hidden_states: Tensor) -> Tensor:
        """Return the keyword selector's (T,) logits for an answer's (M, T, D) hidden states.

        Raises:
            InputError: the head has no selector.
        """
        if self.selector is None:
            raise InputError("this head has no keyword selector; train one or use noun chunks")
        logits: Tensor = self.selector(self.weigh_layers(hidden_states))
        return logits


def _check_and_fill_in_refiner(config: HeadConfig, segmenter: Segmenter) -> HeadConfig:
    """Compare the SAM's family and size with the configuration's, or add them where it has none.

    Raises:
        InputError: they are not the segmenter's.
    """
    model_type = segmenter.sam.config.model_type
    num_parameters = sum(weight.numel() for weight in segmenter.vision_encoder.parameters())
    expected = (config.refiner_model_type, config.refiner_encoder_num_parameters)
    if expected not in (("", 0), (model_type, num_parameters)):
        describe = "type {!r} with a vision encoder of {:,} parameters".format
        raise InputError(
            f"the head was trained with a SAM of {describe(*expected)}, this one is of"
            f" {describe(model_type, num_parameters)}; use {config.refiner_name_or_path}, or train"
            " a head with this SAM"
        )
    return replace(
        config, refiner_model_type=model_type, refiner_encoder_num_parameters=num_parameters
    )
