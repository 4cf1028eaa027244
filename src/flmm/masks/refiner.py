"""SAM as mask refiner, prompted with a mask, a box and the phrase's tokens (paper section 3.3).

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

# Larger tensors fit neither the CPU's caches nor the memory that malloc keeps: allocating new
# memory for each costs more than a larger batch saves.
_MAX_CPU_IMAGE_TOKENS = 2**13

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


class MaskRefiner(nn.Module):
    """SAM's prompt encoder and mask decoder on SAM's frozen image embedding (paper section 3.3).

    Args:
        sam: any SAM, also one with a small input; its prompt encoder and mask decoder are trained,
            its vision encoder is frozen here.
        use_mask, use_box, use_text: which prompts SAM gets; without the mask it gets its own
            "no mask" embedding.
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
        """Freeze what gets no gradient; distributed training fails on unused parameters."""
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
            # It shifts all of a query's scores alike, which softmax ignores: its gradient is only
            # rounding error.
            if name.endswith("k_proj.bias"):
                weight.requires_grad_(False)

    def resized_size(self, picture: Size) -> Size:
        """Return the (height, width) of a picture resized for SAM: its longer side is ``S``."""
        return _scaled_size(picture, self.input_side)

    @torch.no_grad()
    def encode(self, *pictures: NDArray[np.uint8]) -> Tensor:
        """Run SAM's frozen vision encoder; any number of phrases can use the result.

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
        """Return SAM's input (3, S, S) for (H, W, 3) uint8: resized, normalised, zero-padded."""
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            raise InputError(
                f"a picture is {picture.shape} {picture.dtype}; give (height, width, 3) uint8"
            )
        height, width = self.resized_size((picture.shape[0], picture.shape[1]))
        # Pillow's resize antialiases, as in SAM's training; torch's does not by default.
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
        """Refine the masks; phrases with the same number of tokens share batches.

        Args:
            mask_logits: (P, h'', w''), from the mask decoder, over the picture's visible part.
            text_prompts: P tensors (T, C), one sparse prompt a token; ignored without
                ``use_text``.
            geometry: of all the pictures.
            image_embeddings: (B, C, e, e), from ``encode``.
            picture_indices: (P,) int64 in 0..B-1, each phrase's picture; None if there is one.
            resolution: of the returned logits.

        Returns:
            (P, H, W) logits, or at "low" (P, a, b) with ``max(a, b) == 4 * e``: SAM's own logits
            cut to the picture.

        Raises:
            InputError: the image embeddings are not this SAM's.
        """
        expected = (self.hidden_size, self.embedding_side, self.embedding_side)
        if image_embeddings.shape[1:] != expected:
            raise InputError(
                f"image embeddings are {tuple(image_embeddings.shape)}, this refiner needs "
                f"(pictures, {', '.join(map(str, expected))}); encode the picture with this head"
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
        """Return the dense prompts (P, C, e, e) of (P, h'', w'') logits."""
        prompts = self.sam.prompt_encoder
        if not self.use_mask:
            shape = (len(mask_logits), -1, self.embedding_side, self.embedding_side)
            no_mask: Tensor = prompts.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(shape)
            return no_mask
        # One border value a picture, the minimum over its phrases, as in the published heads.
        background = background_logit(mask_logits)
        border = torch.full_like(background, -1).scatter_reduce(
            0, picture_indices, background, "amin"
        )
        border = border[picture_indices]
        height, width = self.resized_size(geometry.picture)
        square = border[:, None, None].expand(-1, self.input_side, self.input_side).clone()
        square[:, :height, :width] = place_on_picture(
            mask_logits, geometry, (height, width), border
        )
        low = functional.interpolate(
            square[:, None],
            (self.low_resolution_side, self.low_resolution_side),
            mode="bilinear",
            align_corners=False,
        )
        dense: Tensor = prompts.mask_embed(low)
        return dense

    def _box_prompts(self, mask_logits: Tensor, geometry: ImageGeometry) -> Tensor | None:
        """Return the corner prompts (P, 2, C) of the masks' boxes; None if unused.

        An empty mask's box is the whole picture.
        """
        if not self.use_box:
            return None
        height, width = geometry.picture
        boxes = mask_boxes(resize_to_picture(mask_logits.detach(), geometry) > 0)
        whole = boxes.new_tensor([0, 0, width, height])
        boxes = torch.where(boxes.any(dim=1, keepdim=True), boxes, whole)
        resized_height, resized_width = self.resized_size(geometry.picture)
        scale = torch.tensor([resized_width / width, resized_height / height] * 2)
        # Positions are sines of large angles: in bfloat16 the corners would be off by pixels.
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
        """Return SAM's low-resolution logits (P, 4e, 4e) for the prompts."""
        # SAM's decoder cannot mask padded prompts, so only phrases of one length share a batch.
        groups: dict[int, list[int]] = defaultdict(list)
        for phrase in range(len(dense)):
            groups[len(text_prompts[phrase]) if self.use_text else 0].append(phrase)
        with torch.autocast(dense.device.type, enabled=False):
            positions: Tensor = self.sam.get_image_wide_positional_embeddings()  # type: ignore[no-untyped-call]
        batch_size = len(dense)
        if dense.device.type == "cpu":
            batch_size = max(_MAX_CPU_IMAGE_TOKENS // self.embedding_side**2, 1)
        batches = [
            group[first : first + batch_size]
            for group in groups.values()
            for first in range(0, len(group), batch_size)
        ]
        batch_logits: list[Tensor] = []
        for batch in batches:
            indices = torch.tensor(batch, device=dense.device)
            sparse = [] if boxes is None else [boxes[indices]]
            if self.use_text:
                sparse.append(torch.stack([text_prompts[phrase] for phrase in batch]))
            logits, _ = self.sam.mask_decoder(
                image_embeddings=image_embeddings[picture_indices[indices]].to(dense.dtype),
                image_positional_embeddings=positions.expand(len(batch), -1, -1, -1),
                sparse_prompt_embeddings=torch.cat(sparse, dim=1)[:, None] if sparse else None,
                dense_prompt_embeddings=dense[indices],
                multimask_output=False,
            )
            batch_logits.append(logits[:, 0, 0])
        order = torch.tensor([phrase for batch in batches for phrase in batch])
        return torch.cat(batch_logits)[order.argsort().to(dense.device)]

    def _upsample_to_picture(self, low: Tensor, picture: Size) -> Tensor:
        """Resize (P, 4e, 4e) logits over SAM's padded input to (P, H, W)."""
        # In two steps, through SAM's input size, as SAM itself does.
        height, width = self.resized_size(picture)
        square = functional.interpolate(
            low[:, None], (self.input_side, self.input_side), mode="bilinear", align_corners=False
        )
        return functional.interpolate(
            square[..., :height, :width], picture, mode="bilinear", align_corners=False
        )[:, 0]


def _scaled_size(picture: Size, side: int) -> Size:
    """Return the picture's size when its longer side is ``side``, rounded as in SAM."""
    scale = side / max(picture)
    height, width = (max(int(length * scale + 0.5), 1) for length in picture)
    return height, width


def load_sam(name: str | Path) -> SamModel:
    """Load a SAM from a folder or the hub; safetensors only, never a pickle.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    try:
        # The file may be in half precision, which does not run on a CPU.
        sam: SamModel = SamModel.from_pretrained(name, use_safetensors=True, dtype=torch.float32)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"cannot load the refiner {str(name)!r} ({reason}); "
            "give the folder of a SAM model or go online once to fetch it"
        ) from error
    return sam
