"""The training loss of a few pictures, as sums: every phrase weighs the same in any batch.

Letters: ``P`` phrases, ``H W`` picture size, ``a b`` size of the logits.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from flmm.head.model import GroundingHead
from flmm.segmenters.prompts import PictureEmbeddings
from flmm.train.dataset import TrainingExample
from flmm.train.losses import mask_loss
from flmm.types import ImageGeometry


@dataclass(frozen=True)
class LossSums:
    """Sums of losses: over phrases, and over the answer tokens for the keyword selector."""

    decoder: Tensor
    refiner: Tensor
    """0 for a head without a refiner."""
    selector: Tensor
    """0 for a head without a keyword selector."""

    def mean(self, phrases: float, tokens: float) -> Tensor:
        """Return the loss to minimise: the sums divided by the numbers of phrases and tokens."""
        return (self.decoder + self.refiner) / phrases + self.selector / max(tokens, 1)


def count_phrases(pictures: Sequence[TrainingExample]) -> int:
    return sum(len(picture.features.phrases) for picture in pictures)


def count_tokens(pictures: Sequence[TrainingExample]) -> int:
    return sum(
        len(answer.groundable) for picture in pictures for answer in picture.features.answers
    )


def compute_loss_sums(
    head: GroundingHead, pictures: Sequence[TrainingExample], device: torch.device
) -> LossSums:
    """Return sums of the paper's loss (section 3.4) over all phrases of at least one picture.

    Pictures with the same geometry go through the head in one batch.
    """
    by_geometry: dict[ImageGeometry, list[TrainingExample]] = defaultdict(list)
    for picture in pictures:
        by_geometry[picture.features.geometry].append(picture)
    parts = [_mask_sums(head, group, device) for group in by_geometry.values()]
    decoder, refiner = (torch.stack(column).sum() for column in zip(*parts, strict=True))
    return LossSums(decoder, refiner, _selector_sum(head, pictures, device))


def _mask_sums(
    head: GroundingHead, pictures: Sequence[TrainingExample], device: torch.device
) -> tuple[Tensor, Tensor]:
    phrases = [phrase for picture in pictures for phrase in picture.features.phrases]
    picture_indices = [
        index for index, picture in enumerate(pictures) for _ in picture.features.phrases
    ]
    embeddings = [
        picture.features.image_embedding
        for picture in pictures
        if picture.features.image_embedding is not None
    ]
    output = head(
        torch.stack([phrase.attention for phrase in phrases]).to(device),
        [phrase.hidden_states.to(device) for phrase in phrases],
        pictures[0].features.geometry,
        PictureEmbeddings.concatenate(embeddings).to(device) if embeddings else None,
        torch.tensor(picture_indices, device=device),
        "low",
    )
    masks = torch.cat([picture.masks for picture in pictures]).to(device).float()
    ignored = torch.cat([picture.ignored_masks for picture in pictures]).to(device).float()
    decoder = sum_masked_loss(output.mask_logits, masks, ignored)
    if not head.config.refine:
        return decoder, decoder.new_zeros(())
    return decoder, sum_masked_loss(output.refined_logits, masks, ignored)


def sum_masked_loss(logits: Tensor, masks: Tensor, ignored: Tensor) -> Tensor:
    """Return the sum over phrases of BCE + Dice, where ignored pixels add nothing.

    Args:
        logits: (P, a, b).
        masks: (P, H, W) float, 0 or 1: the true masks.
        ignored: (P, H, W) float, 1 where a pixel does not count.
    """
    targets, ignored_share = (
        functional.interpolate(mask[:, None], logits.shape[1:], mode="area")[:, 0]
        for mask in (masks, ignored)
    )
    if ignored_share.any():
        # A logit of -30 with target 0 adds nothing to the loss and has no gradient.
        excluded = ignored_share > 0.5
        logits = logits.masked_fill(excluded, -30.0)
        targets = targets.masked_fill(excluded, 0.0)
    return mask_loss(logits, targets, "sum")


def _selector_sum(
    head: GroundingHead, pictures: Sequence[TrainingExample], device: torch.device
) -> Tensor:
    answers = [answer for picture in pictures for answer in picture.features.answers]
    if not answers:
        return torch.zeros((), device=device)
    states = torch.cat([answer.hidden_states for answer in answers], dim=1).to(device)
    groundable = torch.cat([answer.groundable for answer in answers]).to(device)
    logits = head.keyword_logits(states).float()
    return functional.binary_cross_entropy_with_logits(logits, groundable, reduction="sum")
