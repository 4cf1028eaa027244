"""SAM, prompted with a mask, a box and the phrase's own tokens (paper section 3.3, step 4).

Letters: ``P`` phrases, ``B`` pictures, ``T`` tokens of a phrase, ``C`` SAM's width, ``e`` side of
SAM's image embedding, ``S`` side of SAM's input, ``H W`` picture size, ``h'' w''`` size of the mask
decoder's logits over the picture.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from transformers import SamModel

from flmm.errors import InputError
from flmm.pictures.geometry import background_logit, mask_boxes, place_on_picture, resize_to_picture
from flmm.types import ImageGeometry, Size

MaskResolution = Literal["picture", "low"]
"""Of the refined logits: the picture's own, or SAM's before its last upsampling (for training)."""

# Tensors of more would fit neither a cache nor the memory that the C library keeps: on a CPU,
# fetching fresh memory for each costs more than a larger batch saves.
_MAX_CPU_IMAGE_TOKENS = 2**13

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


class MaskRefiner(nn.Module):
    """SAM's prompt encoder and mask decoder on SAM's frozen image embedding (paper section 3.3).

    Args:
        sam: any SAM, also one with a small input; its prompt encoder and mask decoder will be
            trained, its vision encoder is frozen here.
        use_mask, use_box, use_text: which prompts are given; without the mask SAM's own "no mask"
            embedding takes its place.
    """

    def __init__(
        self, sam: SamModel, use_mask: bool = True, use_box: bool = True, use_text: bool = True
    ) -> None:
        super().__init__()
        self.sam = sam
        self.use_mask, self.use_box, self.use_text = use_mask, use_box, use_text
        self.input_side: int = sam.prompt_encoder.input_image_size
        self.embedding_side: int = sam.prompt_encoder.image_embedding_size[0]
        self.low_resolution_side = 4 * self.embedding_side
        self.hidden_size: int = sam.prompt_encoder.hidden_size
        self._freeze()

    def _freeze(self) -> None:
        """Leaves trainable what gets a gradient; the rest would only upset distributed training."""
        prompts, decoder = self.sam.prompt_encoder, self.sam.mask_decoder
        frozen: list[nn.Module] = [
            self.sam.vision_encoder,
            self.sam.shared_image_embedding,
            *prompts.point_embed[:2],
            prompts.not_a_point_embed,
            decoder.iou_prediction_head,
            *decoder.output_hypernetworks_mlps[1:],
            prompts.no_mask_embed if self.use_mask else prompts.mask_embed,
        ]
        if not self.use_box:
            frozen.extend(prompts.point_embed[2:])
        for module in frozen:
            module.requires_grad_(False)
        for name, weight in decoder.named_parameters():
            # It adds the same to all of a query's scores, which softmax does not see: all that it
            # would learn from is rounding.
            if name.endswith("k_proj.bias"):
                weight.requires_grad_(False)

    def resized_size(self, picture: Size) -> Size:
        """The (height, width) that SAM sees a picture at: its longer side becomes ``S``."""
        return _scaled_size(picture, self.input_side)

    @torch.no_grad()
    def encode(self, *pictures: NDArray[np.uint8]) -> Tensor:
        """Runs SAM's frozen vision encoder once; any number of phrases can use the result.

        Args:
            pictures: each (H, W, 3) uint8; sizes may differ.

        Returns:
            (B, C, e, e) image embeddings, one a picture.

        Raises:
            InputError: no picture, or one that is not (H, W, 3) uint8.
        """
        if not pictures:
            raise InputError("no picture was given to encode; give at least one")
        pixels = torch.stack([self.preprocess(picture) for picture in pictures])
        weight = self.sam.vision_encoder.patch_embed.projection.weight
        embeddings: Tensor = self.sam.get_image_embeddings(pixels.to(weight))
        return embeddings

    def preprocess(self, picture: NDArray[np.uint8]) -> Tensor:
        """(H, W, 3) uint8 to SAM's input (3, S, S): resized, normalised, zero-padded."""
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            raise InputError(
                f"a picture is {picture.shape} {picture.dtype}; give (height, width, 3) uint8"
            )
        height, width = self.resized_size((picture.shape[0], picture.shape[1]))
        # Pillow smooths before it shrinks, as SAM was trained with; torch's resize does not.
        resized = Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(resized, dtype=np.float32))
        pixels = (pixels - torch.tensor(PIXEL_MEAN)) / torch.tensor(PIXEL_STD)
        return functional.pad(
            pixels.permute(2, 0, 1), (0, self.input_side - width, 0, self.input_side - height)
        )

    def forward(
        self,
        mask_logits: Tensor,
        text_prompts: Sequence[Tensor],
        geometry: ImageGeometry,
        image_embeddings: Tensor,
        picture_indices: Tensor | None = None,
        resolution: MaskResolution = "picture",
    ) -> Tensor:
        """Refines every phrase's mask, phrases with as many tokens in one batch (a few, on a CPU).

        Args:
            mask_logits: (P, h'', w''), from the mask decoder, over the picture's visible part.
            text_prompts: P tensors (T, C), one sparse prompt a token; not read without
                ``use_text``.
            geometry: of all the pictures.
            image_embeddings: (B, C, e, e), from ``encode``.
            picture_of_phrase: (P,) int64 in 0..B-1; None when there is one picture.
            resolution: of the answer.

        Returns:
            (P, H, W) logits, or at "low" (P, a, b) with ``max(a, b) == 4 * e``: SAM's own logits
            cut to the picture.

        Raises:
            InputError: the image embeddings are not this SAM's.
        """
        wanted = (self.hidden_size, self.embedding_side, self.embedding_side)
        if image_embeddings.shape[1:] != wanted:
            raise InputError(
                f"image embeddings are {tuple(image_embeddings.shape)}, this refiner wants "
                f"(pictures, {', '.join(map(str, wanted))}); encode the picture with this head"
            )
        if picture_indices is None:
            picture_indices = torch.zeros(
                len(mask_logits), dtype=torch.long, device=mask_logits.device
            )
        dense = self._dense_prompts(mask_logits, geometry, picture_indices)
        boxes = self._box_prompts(mask_logits, geometry)
        low = self._decode(dense, boxes, text_prompts, image_embeddings, picture_indices)
        if resolution == "low":
            height, width = _scaled_size(geometry.picture, self.low_resolution_side)
            return low[:, :height, :width]
        return self._upsample_to_picture(low, geometry.picture)

    def _dense_prompts(
        self, mask_logits: Tensor, geometry: ImageGeometry, picture_indices: Tensor
    ) -> Tensor:
        """(P, h'', w'') logits to (P, C, e, e) dense prompts."""
        prompts = self.sam.prompt_encoder
        if not self.use_mask:
            shape = (len(mask_logits), -1, self.embedding_side, self.embedding_side)
            no_mask: Tensor = prompts.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(shape)
            return no_mask
        # One border value a picture, the least of all its phrases', as the published heads saw.
        least = background_logit(mask_logits)
        border = torch.full_like(least, -1).scatter_reduce(0, picture_indices, least, "amin")
        border = border[picture_indices]
        height, width = self.resized_size(geometry.picture)
        shown = place_on_picture(mask_logits, geometry, (height, width), border)
        square = border[:, None, None].expand(-1, self.input_side, self.input_side).clone()
        square[:, :height, :width] = shown
        low = functional.interpolate(
            square[:, None],
            (self.low_resolution_side, self.low_resolution_side),
            mode="bilinear",
            align_corners=False,
        )
        dense: Tensor = prompts.mask_embed(low)
        return dense

    def _box_prompts(self, mask_logits: Tensor, geometry: ImageGeometry) -> Tensor | None:
        """(P, h'', w'') logits to (P, 2, C) corner prompts of the mask's box; None if unused."""
        if not self.use_box:
            return None
        height, width = geometry.picture
        boxes = mask_boxes(resize_to_picture(mask_logits.detach(), geometry) > 0)
        whole = boxes.new_tensor([0, 0, width, height])
        boxes = torch.where(boxes.any(dim=1, keepdim=True), boxes, whole)
        resized_height, resized_width = self.resized_size(geometry.picture)
        scale = torch.tensor([resized_width / width, resized_height / height] * 2)
        # Positions are sines of large angles: in bfloat16 the corners would jump by pixels.
        with torch.autocast(boxes.device.type, enabled=False):
            corners: Tensor = self.sam.prompt_encoder._embed_boxes(
                (boxes * scale.to(boxes.device))[:, None]
            )
        return corners[:, 0]

    def _decode(
        self,
        dense: Tensor,
        boxes: Tensor | None,
        text_prompts: Sequence[Tensor],
        image_embeddings: Tensor,
        picture_indices: Tensor,
    ) -> Tensor:
        """Prompts to SAM's low-resolution logits (P, 4e, 4e)."""
        # SAM's decoder has no mask for padded prompts, so only phrases of one length share a batch.
        groups: dict[int, list[int]] = defaultdict(list)
        for phrase in range(len(dense)):
            groups[len(text_prompts[phrase]) if self.use_text else 0].append(phrase)
        with torch.autocast(dense.device.type, enabled=False):
            positions: Tensor = self.sam.get_image_wide_positional_embeddings()  # type: ignore[no-untyped-call]
        at_once = len(dense)
        if dense.device.type == "cpu":
            at_once = max(_MAX_CPU_IMAGE_TOKENS // self.embedding_side**2, 1)
        batches = [
            members[first : first + at_once]
            for members in groups.values()
            for first in range(0, len(members), at_once)
        ]
        parts: list[Tensor] = []
        for members in batches:
            chosen = torch.tensor(members, device=dense.device)
            sparse = [] if boxes is None else [boxes[chosen]]
            if self.use_text:
                sparse.append(torch.stack([text_prompts[phrase] for phrase in members]))
            logits, _ = self.sam.mask_decoder(
                image_embeddings=image_embeddings[picture_indices[chosen]].to(dense.dtype),
                image_positional_embeddings=positions.expand(len(members), -1, -1, -1),
                sparse_prompt_embeddings=torch.cat(sparse, dim=1)[:, None] if sparse else None,
                dense_prompt_embeddings=dense[chosen],
                multimask_output=False,
            )
            parts.append(logits[:, 0, 0])
        order = torch.tensor([phrase for members in batches for phrase in members])
        return torch.cat(parts)[order.argsort().to(dense.device)]

    def _upsample_to_picture(self, low: Tensor, picture: Size) -> Tensor:
        """(P, 4e, 4e) over SAM's padded input to (P, H, W)."""
        # Twice, by way of SAM's input size, as SAM itself does.
        height, width = self.resized_size(picture)
        square = functional.interpolate(
            low[:, None], (self.input_side, self.input_side), mode="bilinear", align_corners=False
        )
        return functional.interpolate(
            square[..., :height, :width], picture, mode="bilinear", align_corners=False
        )[:, 0]


def _scaled_size(picture: Size, side: int) -> Size:
    """The picture's size when its longer side is ``side``, as SAM rounds it."""
    scale = side / max(picture)
    height, width = (max(int(length * scale + 0.5), 1) for length in picture)
    return height, width


def load_sam(name: str | Path) -> SamModel:
    """Reads a SAM from a folder or the hub; safetensors only, never a pickle.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    try:
        # Half precision on disk saves space; on a CPU it would not run.
        sam: SamModel = SamModel.from_pretrained(name, use_safetensors=True, dtype=torch.float32)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"cannot load the refiner {str(name)!r} ({reason}); "
            "give the folder of a SAM model or go online once to fetch it"
        ) from error
    return sam
