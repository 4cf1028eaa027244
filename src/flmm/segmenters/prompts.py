"""What a segmenter takes and gives: picture embeddings, prompts and masks; the prompts' encoder.

Letters: ``P`` phrases, ``B`` pictures, ``K`` masks a phrase, ``n`` points a phrase, ``k T`` sparse
prompts a phrase, ``C`` the segmenter's width, ``e`` side of its image embedding.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Protocol, Self

import torch
from torch import Tensor, nn

from flmm.errors import InputError
from flmm.segmenters.precision import Precision
from flmm.types import Size


@dataclass(frozen=True, eq=False)
class PictureEmbeddings:
    """What a segmenter's vision encoder gives for pictures; any number of prompts can use it.

    Raises:
        ValueError: no tensor, or tensors of different numbers of pictures.
    """

    tensors: tuple[Tensor, ...]
    """Each (B, ...): the image embedding (B, C, e, e), then whatever else the family's mask decoder
    takes."""

    def __post_init__(self) -> None:
        if len({len(tensor) for tensor in self.tensors}) != 1:
            sizes = [tuple(tensor.shape) for tensor in self.tensors]
            raise ValueError(f"picture embeddings need tensors with one row a picture, got {sizes}")

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.tensors[0])

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of the tensors, without the number of pictures."""
        return tuple(tuple(tensor.shape[1:]) for tensor in self.tensors)

    def match_phrases(self, num_phrases: int | None) -> Tensor:
        """Return the index of each phrase's picture, (P,) int64, where none is named.

        ``num_phrases``: P; None for one a picture.

        Raises:
            InputError: there is neither one picture nor one for each phrase.
        """
        num_phrases = len(self) if num_phrases is None else num_phrases
        if len(self) == 1:
            return torch.zeros(num_phrases, dtype=torch.long)
        if len(self) != num_phrases:
            raise InputError(
                f"there are {num_phrases} phrases and {len(self)} pictures; give one picture, one"
                " for each phrase, or picture_indices"
            )
        return torch.arange(num_phrases)

    def select(self, indices: Tensor) -> Self:
        """Return the rows at (B',) int64 indices."""
        return type(self)(tuple(tensor[indices] for tensor in self.tensors))

    def split(self) -> list[Self]:
        """Return the embeddings of each picture alone."""
        rows = zip(*(torch.split(tensor, 1) for tensor in self.tensors), strict=True)
        return [type(self)(tensors) for tensors in rows]

    @classmethod
    def concatenate(cls, parts: Iterable[Self]) -> Self:
        """Join the rows of at least one part, all of the same segmenter."""
        columns = zip(*(part.tensors for part in parts), strict=True)
        return cls(tuple(torch.cat(column) for column in columns))

    def to(self, target: torch.device | torch.dtype | str | None) -> Self:
        """Return the embeddings on a device or of a dtype; None changes nothing."""
        if target is None:
            return self
        return type(self)(tuple(tensor.to(target) for tensor in self.tensors))


@dataclass(frozen=True, eq=False)
class SegmenterPrompts:
    """The prompts of P phrases; all are optional, coordinates are pixels of the user's picture.

    Points, labels and boxes may be on any device; mask logits and extra prompts are on the
    segmenter's.

    Raises:
        ValueError: points without labels or the reverse, or prompts of different numbers of
            phrases.
    """

    points: Tensor | None = None
    """(P, n, 2) x, y."""
    point_labels: Tensor | None = None
    """(P, n): 1 inside the mask, 0 outside."""
    boxes: Tensor | None = None
    """(P, 4) x0, y0, x1, y1."""
    mask_logits: Tensor | None = None
    """(P, 4e, 4e) over the segmenter's whole input, as ``SegmenterMasks.logits``."""
    extra: Tensor | Sequence[Tensor] | None = None
    """P tensors (T, C): more sparse prompts, such as those that a head trains; each phrase can have
    its own T."""

    def __post_init__(self) -> None:
        if (self.points is None) != (self.point_labels is None):
            raise ValueError("points and point_labels are given together or not at all")
        if len(counts := self._counts()) > 1:
            raise ValueError(f"prompts are of different numbers of phrases: {sorted(counts)}")

    @classmethod
    def at_points(cls, points: Tensor) -> Self:
        """Return the prompts of (P, n, 2) points inside the masks."""
        return cls(points=points, point_labels=torch.ones(points.shape[:2]))

    def _counts(self) -> set[int]:
        prompts = (getattr(self, field.name) for field in fields(self))
        return {len(prompt) for prompt in prompts if prompt is not None}

    def batch_by_length(self, num_phrases: int, max_size: int) -> list[list[int]]:
        """Return batches of phrases' indices, each of phrases with one number of extra prompts.

        Mask decoders cannot mask padded prompts, so phrases of different numbers share no batch.
        """
        groups: dict[int, list[int]] = defaultdict(list)
        for phrase in range(num_phrases):
            groups[0 if self.extra is None else len(self.extra[phrase])].append(phrase)
        return [
            group[first : first + max_size]
            for group in groups.values()
            for first in range(0, len(group), max_size)
        ]

    @property
    def num_phrases(self) -> int | None:
        """P; None where there is no prompt."""
        return next(iter(self._counts()), None)


@dataclass(frozen=True, eq=False)
class SegmenterMasks:
    """The masks that a segmenter gives for P phrases."""

    logits: Tensor
    """(P, K, 4e, 4e) over the segmenter's whole input, padding included; the mask is above 0."""
    scores: Tensor
    """(P, K): the IoU with the true mask that the segmenter predicts; not bounded to 0..1."""

    @classmethod
    def concatenate(cls, parts: Sequence[Self], order: Tensor, precision: Precision) -> Self:
        """Join the phrases of parts that were computed in a precision, then bring them in order.

        ``order``: (P,) int64, which phrase of all comes first, second, and so on.
        """
        logits = torch.cat([part.logits for part in parts])[order]
        scores = torch.cat([part.scores for part in parts])[order]
        return cls(precision.restore(logits), precision.restore(scores))


class PromptEncoder(Protocol):
    """What the prompt encoders of all families in transformers have in common."""

    input_image_size: int
    image_embedding_size: Size
    hidden_size: int
    mask_embed: nn.Module
    no_mask_embed: nn.Embedding
    not_a_point_embed: nn.Embedding

    def __call__(
        self,
        input_points: Tensor | None,
        input_labels: Tensor | None,
        input_boxes: Tensor | None,
        input_masks: Tensor | None,
    ) -> tuple[Tensor | None, Tensor]:
        """Return sparse prompts (P, 1, k, C) and dense prompts (P, C, e, e)."""
