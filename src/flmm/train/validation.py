"""Validation of a head during training: cIoU and mIoU of decoder and refiner."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from flmm.data.features import predict_masks
from flmm.evaluate.metrics import compute_overlap
from flmm.head.model import GroundingHead
from flmm.pictures.geometry import resize_to_picture
from flmm.train.dataset import TrainingExample


@dataclass(frozen=True)
class ValidationScores:
    """Scores in 0..1 over all phrases; NaN without phrases."""

    decoder_cumulative_iou: float
    decoder_mean_iou: float
    refined_cumulative_iou: float
    refined_mean_iou: float
    phrases: int

    @property
    def selection_score(self) -> float:
        """The score by which the best head is selected."""
        return self.refined_cumulative_iou

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True)
class ValidationResult:
    """Scores over all validation data, and over each source."""

    whole: ValidationScores
    sources: dict[str, ValidationScores]
    """By the sources' names."""

    def to_dict(self) -> dict[str, float]:
        """Return flat scores: "refined_mean_iou" of all, "COCO/refined_mean_iou" of a source."""
        content = self.whole.to_dict()
        if len(self.sources) > 1:
            for source, scores in self.sources.items():
                content.update({f"{source}/{name}": v for name, v in scores.to_dict().items()})
        return content


@torch.no_grad()
def validate(
    head: GroundingHead,
    pictures: Iterable[tuple[str, TrainingExample]],
    source_names: Sequence[str],
    accelerator: Accelerator,
) -> ValidationResult:
    """Return the scores over the pictures of all processes.

    Args:
        head: the head to measure, in eval mode.
        pictures: this process's, as (source name, example).
        source_names: of all sources, the same in every process.
        accelerator: adds up the sums of the processes.
    """
    device = accelerator.device
    # Per source: intersection, union and sum of IoU of decoder, then of refiner; phrases.
    sums = {name: torch.zeros(7, dtype=torch.float64) for name in source_names}
    for name, picture in pictures:
        output = predict_masks(head, picture.features, device=device)
        valid = ~picture.ignored_masks
        truth = picture.masks & valid
        decoded = resize_to_picture(output.mask_logits.float(), picture.features.geometry)
        for column, logits in ((0, decoded), (3, output.refined_logits)):
            overlap = compute_overlap((logits > 0).cpu() & valid, truth)
            sums[name][column : column + 3] += torch.stack(
                [values.sum() for values in (overlap.intersection, overlap.union, overlap.iou)]
            )
        sums[name][6] += len(truth)
    gathered = accelerator.reduce(torch.stack(list(sums.values())), "sum")
    assert isinstance(gathered, Tensor)
    scores = {
        name: _scores_from_sums(row) for name, row in zip(source_names, gathered, strict=True)
    }
    return ValidationResult(_scores_from_sums(gathered.sum(dim=0)), scores)


def _scores_from_sums(sums: Tensor) -> ValidationScores:
    total = sums.tolist()
    count = total[6] or float("nan")
    return ValidationScores(
        decoder_cumulative_iou=total[0] / (total[1] or float("nan")),
        decoder_mean_iou=total[2] / count,
        refined_cumulative_iou=total[3] / (total[4] or float("nan")),
        refined_mean_iou=total[5] / count,
        phrases=int(total[6]),
    )
