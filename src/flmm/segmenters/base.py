"""The interface of all Segment Anything models: encode a picture once, decode any prompts.

Letters: ``P`` phrases, ``B`` pictures, ``K`` masks a phrase, ``k`` sparse prompts a phrase, ``C``
its width, ``e`` side of its image embedding, ``S`` side of its input, ``H W`` picture size.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import ClassVar, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_utils import PreTrainedModel

from flmm.errors import InputError
from flmm.segmenters.channels_last import keep_channels_last
from flmm.segmenters.precision import Precision
from flmm.segmenters.prompts import (
    PictureEmbeddings,
    PromptEncoder,
    SegmenterMasks,
    SegmenterPrompts,
)
from flmm.types import Size

# Larger tensors do not fit the CPU's caches and the memory that malloc keeps.
_MAX_CPU_IMAGE_TOKENS = 2**13


class Segmenter(nn.Module, ABC):
    """A Segment Anything model: the frozen vision encoder, the prompt encoder, the mask decoder.

    Args:
        sam: the model of transformers.
    """

    model_types: ClassVar[tuple[str, ...]]
    """The values of ``model_type`` in ``config.json`` that it reads."""
    hub_ids: ClassVar[tuple[str, ...]]
    """Some of its models on the hub."""
    model_class: ClassVar[type[PreTrainedModel]]
    pixel_mean: ClassVar[tuple[float, float, float]]
    """Of the input, for pixels in 0..255."""
    pixel_std: ClassVar[tuple[float, float, float]]
    encoder_prefixes: ClassVar[tuple[str, ...]] = ("vision_encoder.",)
    """The names of the weights that ``encode`` depends on begin with these."""

    def __init__(self, sam: PreTrainedModel) -> None:
        super().__init__()
        self.sam = sam
        self.input_side: int = self.prompt_encoder.input_image_size
        self.embedding_side: int = self.prompt_encoder.image_embedding_size[0]
        self.low_resolution_side = 4 * self.embedding_side
        self.hidden_size: int = self.prompt_encoder.hidden_size
        self.precision = Precision()
        keep_channels_last(self.mask_decoder)

    @classmethod
    @abstractmethod
    def build_tiny(cls) -> Self:
        """Build a tiny model of the family with random weights, for tests."""

    @property
    def prompt_encoder(self) -> PromptEncoder:
        """The model's prompt encoder."""
        return cast(PromptEncoder, self.sam.prompt_encoder)

    @property
    def vision_encoder(self) -> nn.Module:
        """The model's vision encoder, which is never trained."""
        return self.sam.get_submodule("vision_encoder")

    @property
    def mask_decoder(self) -> nn.Module:
        """The model's mask decoder."""
        return self.sam.get_submodule("mask_decoder")

    @property
    def embedding_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of the tensors that ``encode`` returns, without the number of pictures."""
        return ((self.hidden_size, self.embedding_side, self.embedding_side),)

    def encoder_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the names and values of the weights that ``encode`` depends on; none is trained."""
        for name, weight in self.sam.state_dict().items():
            if name.startswith(self.encoder_prefixes):
                yield name, weight

    @abstractmethod
    def resized_size(self, picture: Size) -> Size:
        """Return the (height, width) of the part of the square input that shows the picture."""

    @abstractmethod
    def cut_to_picture(self, logits: Tensor, picture: Size) -> Tensor:
        """Cut (..., 4e, 4e) logits over the whole input to the part that shows the picture.

        Args:
            logits: low-resolution logits.
            picture: (height, width) of the user's picture.

        Returns:
            (..., a, b), a view.
        """

    @abstractmethod
    def get_upsampling(self, picture: Size) -> Callable[[Tensor], Tensor]:
        """Return how (P, 4e, 4e) logits over the whole input become (P, H, W), without weights."""

    def upsample_to_picture(self, logits: Tensor, picture: Size) -> Tensor:
        """Resize (P, 4e, 4e) logits over the whole input to (P, H, W), as the family does."""
        return self.get_upsampling(picture)(logits)

    @torch.no_grad()
    def encode(self, *pictures: NDArray[np.uint8] | Image.Image) -> PictureEmbeddings:
        """Run the frozen vision encoder; any number of prompts can use the result.

        Args:
            pictures: of any sizes; each (H, W, 3) uint8, or an RGB image, which takes less memory.

        Raises:
            InputError: no picture, or an array that is not (H, W, 3) uint8.
        """
        if not pictures:
            raise InputError("no picture was given to encode; give at least one")
        pixels = torch.stack([self.preprocess(picture) for picture in pictures])
        # In training, batch normalisation would change with what it sees.
        self.vision_encoder.eval()
        pixels = pixels.to(next(self.vision_encoder.parameters()))
        with self.precision.computing_on(pixels.device):
            return self.encode_pixels(pixels)

    @abstractmethod
    def encode_pixels(self, pixels: Tensor) -> PictureEmbeddings:
        """Run the vision encoder on (B, 3, S, S) from ``preprocess``, without gradients."""

    def preprocess(self, picture: NDArray[np.uint8] | Image.Image) -> Tensor:
        """Return the input (3, S, S) for one such picture: resized, normalised, zero-padded."""
        if not isinstance(picture, Image.Image):
            if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
                raise InputError(
                    f"a picture is {picture.shape} {picture.dtype}; give (height, width, 3) uint8"
                )
            picture = Image.fromarray(picture)
        height, width = self.resized_size((picture.height, picture.width))
        # Pillow's resize antialiases, as in SAM's training; torch's does not by default.
        resized = picture.resize((width, height), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(resized, dtype=np.float32))
        pixels = (pixels - torch.tensor(self.pixel_mean)) / torch.tensor(self.pixel_std)
        margins = (0, self.input_side - width, 0, self.input_side - height)
        return functional.pad(pixels.permute(2, 0, 1), margins)

    def decode(
        self,
        embeddings: PictureEmbeddings,
        picture: Size,
        prompts: SegmenterPrompts,
        multimask: bool = False,
        picture_indices: Tensor | None = None,
    ) -> SegmenterMasks:
        """Return the masks of all phrases; gradients reach prompts, prompt encoder and decoder.

        Args:
            embeddings: of B pictures, from ``encode``.
            picture: (height, width), the same for all pictures.
            prompts: of P phrases.
            multimask: whether each phrase gets the three masks of a prompt that can mean several
                things (whole, part, part of a part) instead of one.
            picture_indices: (P,) int64 in 0..B-1, each phrase's picture; None if there is one, or
                one for each phrase.

        Raises:
            InputError: the embeddings are of other shapes than this segmenter's, or it is not
                known which picture each phrase is of.
        """
        self._check_embeddings(embeddings)
        device = self.prompt_encoder.no_mask_embed.weight.device
        if picture_indices is None:
            picture_indices = embeddings.match_phrases(prompts.num_phrases).to(device)
        num_phrases = len(picture_indices)
        max_on_cpu = max(_MAX_CPU_IMAGE_TOKENS // self.embedding_side**2, 1)
        max_size = max_on_cpu if device.type == "cpu" else num_phrases
        batches = prompts.batch_by_length(num_phrases, max_size)
        get_positions = cast(Callable[[], Tensor], self.sam.get_image_wide_positional_embeddings)
        with torch.autocast(device.type, enabled=False):
            positions = self.precision.lower(get_positions())  # (1, C, e, e)
        decoded = []
        with self.precision.computing_on(device):
            sparse = self._embed_points_and_boxes(prompts, picture, num_phrases)
            dense = self.precision.lower(self._embed_masks(prompts.mask_logits, num_phrases))
            for batch in batches:
                indices = torch.tensor(batch, device=device)
                parts = [] if sparse is None else [sparse[indices]]
                if prompts.extra is not None:
                    parts.append(torch.stack([prompts.extra[phrase] for phrase in batch])[:, None])
                masks = self._run_mask_decoder(
                    embeddings.select(picture_indices[indices]).to(dense.dtype),
                    positions.expand(len(batch), -1, -1, -1),
                    torch.cat(parts, dim=2) if parts else None,
                    dense[indices],
                    multimask,
                )
                decoded.append(masks)
        order = torch.tensor([phrase for batch in batches for phrase in batch]).argsort().to(device)
        return SegmenterMasks.concatenate(decoded, order, self.precision)

    def freeze_unused(self, mask: bool, box: bool) -> None:
        """Freeze what gets no gradient; distributed training fails on unused parameters.

        Args:
            mask, box: whether phrases are prompted with a mask and a box; they are with no point.
        """
        prompts, decoder = self.prompt_encoder, self.mask_decoder
        unused = [
            self.vision_encoder,
            self.sam.get_submodule("shared_image_embedding"),
            prompts.no_mask_embed if mask else prompts.mask_embed,
            decoder.get_submodule("iou_prediction_head"),
            *list(decoder.get_submodule("output_hypernetworks_mlps").children())[1:],
            *self._unused_modules(box),
        ]
        nn.ModuleList(unused).requires_grad_(False)
        for name, weight in decoder.named_parameters():
            # It shifts all of a query's scores alike: softmax leaves a gradient of rounding errors.
            if name.endswith("k_proj.bias"):
                weight.requires_grad_(False)

    @abstractmethod
    def always_give_first_mask(self) -> None:
        """Make ``decode`` without ``multimask`` give the first mask, never another in its place.

        A head trains the first mask alone.
        """

    @abstractmethod
    def _unused_modules(self, box: bool) -> Iterator[nn.Module]:
        """Yield the family's own parts that the first mask of a phrase without points ignores."""

    @abstractmethod
    def _embed_no_point(self, count: int) -> Tensor | None:
        """Return the sparse prompts (P, 1, k, C) of phrases that have neither points nor a box."""

    @abstractmethod
    def _run_mask_decoder(
        self,
        embeddings: PictureEmbeddings,
        positions: Tensor,
        sparse: Tensor | None,
        dense: Tensor,
        multimask: bool,
    ) -> SegmenterMasks:
        """Decode phrases with the same number of sparse prompts.

        Args:
            embeddings: one row a phrase.
            positions: (P, C, e, e) position encodings of the image embedding.
            sparse: (P, 1, k, C), or None for no sparse prompt.
            dense: (P, C, e, e).
            multimask: as in ``decode``.
        """

    def _check_embeddings(self, embeddings: PictureEmbeddings) -> None:
        if embeddings.shapes != self.embedding_shapes:
            raise InputError(
                f"a picture's embeddings are of shapes {embeddings.shapes}, this SAM needs"
                f" {self.embedding_shapes}; encode the picture with this SAM"
            )

    def _embed_points_and_boxes(
        self, prompts: SegmenterPrompts, picture: Size, count: int
    ) -> Tensor | None:
        """Return (P, 1, k, C), P the ``count``; without any, what the family's decoder takes."""
        if prompts.points is None and prompts.boxes is None:
            return self._embed_no_point(count)
        (height, width), (resized_height, resized_width) = picture, self.resized_size(picture)
        device = self.prompt_encoder.no_mask_embed.weight.device
        scale = torch.tensor([resized_width / width, resized_height / height], device=device)
        points, labels, boxes = (
            None if prompt is None else prompt[:, None].to(device)
            for prompt in (prompts.points, prompts.point_labels, prompts.boxes)
        )
        # Positions are sines of large angles: in bfloat16 they would be off by pixels.
        with torch.autocast(device.type, enabled=False):
            sparse, _ = self.prompt_encoder(
                None if points is None else points.to(scale) * scale,
                None if labels is None else labels.long(),
                None if boxes is None else boxes.to(scale) * scale.repeat(2),
                None,
            )
        return sparse

    def _embed_masks(self, mask_logits: Tensor | None, count: int) -> Tensor:
        """Return dense prompts (P, C, e, e); without masks, the "no mask" embedding."""
        if mask_logits is None:
            no_mask = self.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
            return no_mask.expand(count, -1, self.embedding_side, self.embedding_side)
        return cast(Tensor, self.prompt_encoder.mask_embed(mask_logits[:, None]))
