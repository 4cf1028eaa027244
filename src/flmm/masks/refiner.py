"""SAM as mask refiner, prompted with a mask, a box and the phrase's tokens (paper section 3.3).

Letters: ``P`` phrases, ``B`` pictures, ``T`` tokens of a phrase, ``C`` SAM's width, ``e`` side of
SAM's image embedding, ``H W`` picture size, ``h'' w''`` size of the mask decoder's logits over the
picture.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_utils import PreTrainedModel

from flmm.masks.low_resolution import LowResolutionLogits
from flmm.pictures.geometry import background_logit, mask_boxes, place_on_picture, resize_to_picture
from flmm.segmenters.base import Segmenter
from flmm.segmenters.prompts import PictureEmbeddings, SegmenterPrompts
from flmm.types import ImageGeometry, Size

MaskResolution = Literal["picture", "low"]
"""Of the refined logits: the picture's own, or SAM's before its last upsampling (for training)."""


class MaskRefiner(nn.Module):
    """SAM's prompt encoder and mask decoder on SAM's frozen image embedding (paper section 3.3).

    Args:
        segmenter: any SAM, also one with a small input; its prompt encoder and mask decoder are
            trained, the rest is frozen here.
        use_mask, use_box, use_text: which prompts SAM gets; without the mask it gets its own
            "no mask" embedding.
    """

    segmenter: Segmenter
    sam: PreTrainedModel

    def __init__(
        self,
        segmenter: Segmenter,
        use_mask: bool = True,
        use_box: bool = True,
        use_text: bool = True,
    ) -> None:
        super().__init__()
        self.sam = segmenter.sam
        # Not registered as a submodule: its weights are those of ``sam``, and saved heads name them
        # ``refiner.sam``.
        self.__dict__["segmenter"] = segmenter
        self.use_mask, self.use_box, self.use_text = use_mask, use_box, use_text
        segmenter.freeze_unused(mask=use_mask, box=use_box)
        segmenter.always_give_first_mask()

    @property
    def hidden_size(self) -> int:
        """SAM's width ``C``."""
        return self.segmenter.hidden_size

    def encode(self, *pictures: NDArray[np.uint8] | Image.Image) -> PictureEmbeddings:
        """Run SAM's frozen vision encoder, as ``Segmenter.encode`` does."""
        return self.segmenter.encode(*pictures)

    def forward(
        self,
        mask_logits: Tensor,
        text_prompts: Sequence[Tensor],
        geometry: ImageGeometry,
        image_embeddings: PictureEmbeddings,
        picture_indices: Tensor | None = None,
        resolution: MaskResolution = "picture",
    ) -> Tensor:
        """Refine the masks, as ``refine`` does.

        Args:
            mask_logits, text_prompts, geometry, image_embeddings, picture_indices: as there.
            resolution: of the returned logits.

        Returns:
            (P, H, W) logits, or at "low" (P, a, b) with ``max(a, b) == 4 * e``: SAM's own logits
            cut to the picture.

        Raises:
            InputError: the image embeddings are of other shapes than this SAM's.
        """
        refined = self.refine(
            mask_logits, text_prompts, geometry, image_embeddings, picture_indices
        )
        return self.resize(refined, geometry.picture, resolution)

    def resize(
        self, refined: LowResolutionLogits, picture: Size, resolution: MaskResolution
    ) -> Tensor:
        """Return the logits that ``refine`` returned at a resolution, as ``forward`` does."""
        if resolution == "low":
            return self.segmenter.cut_to_picture(refined.logits, picture)
        return refined.to_picture()

    def refine(
        self,
        mask_logits: Tensor,
        text_prompts: Sequence[Tensor],
        geometry: ImageGeometry,
        image_embeddings: PictureEmbeddings,
        picture_indices: Tensor | None = None,
    ) -> LowResolutionLogits:
        """Refine the masks; phrases with the same number of tokens share batches.

        Args:
            mask_logits: (P, h'', w''), from the mask decoder, over the picture's visible part.
            text_prompts: P tensors (T, C), one sparse prompt a token; ignored without
                ``use_text``.
            geometry: of all the pictures.
            image_embeddings: of B pictures, from ``encode``.
            picture_indices: (P,) int64 in 0..B-1, each phrase's picture; None if there is one.

        Returns:
            (P, 4e, 4e) logits over SAM's whole input.

        Raises:
            InputError: the image embeddings are of other shapes than this SAM's.
        """
        if picture_indices is None:
            picture_indices = torch.zeros(
                len(mask_logits), dtype=torch.long, device=mask_logits.device
            )
        prompts = SegmenterPrompts(
            boxes=_prompt_boxes(mask_logits, geometry) if self.use_box else None,
            mask_logits=self._mask_prompts(mask_logits, geometry, picture_indices)
            if self.use_mask
            else None,
            extra=text_prompts if self.use_text else None,
        )
        picture = geometry.picture
        masks = self.segmenter.decode(
            image_embeddings, picture, prompts, picture_indices=picture_indices
        )
        return LowResolutionLogits(masks.logits[:, 0], self.segmenter.get_upsampling(picture))

    def _mask_prompts(
        self, mask_logits: Tensor, geometry: ImageGeometry, picture_indices: Tensor
    ) -> Tensor:
        """Return (P, 4e, 4e) over SAM's whole input, of (P, h'', w'') logits."""
        segmenter = self.segmenter
        # One border value a picture, the minimum over its phrases, as in the published heads.
        background = background_logit(mask_logits)
        border = torch.full_like(background, -1).scatter_reduce(
            0, picture_indices, background, "amin"
        )
        border = border[picture_indices]
        height, width = segmenter.resized_size(geometry.picture)
        square = border[:, None, None].expand(-1, segmenter.input_side, segmenter.input_side)
        square = square.clone()
        square[:, :height, :width] = place_on_picture(
            mask_logits, geometry, (height, width), border
        )
        low_size = (segmenter.low_resolution_side, segmenter.low_resolution_side)
        return functional.interpolate(
            square[:, None], low_size, mode="bilinear", align_corners=False
        )[:, 0]


def _prompt_boxes(mask_logits: Tensor, geometry: ImageGeometry) -> Tensor:
    """Return the masks' boxes (P, 4) in picture pixels; an empty mask's is the whole picture."""
    height, width = geometry.picture
    boxes = mask_boxes(resize_to_picture(mask_logits.detach(), geometry) > 0)
    whole = boxes.new_tensor([0, 0, width, height])
    return torch.where(boxes.any(dim=1, keepdim=True), boxes, whole)
