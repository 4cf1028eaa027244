"""How good a head is while it is trained: cIoU and mIoU of decoder and refiner."""

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
    """All in 0..1, over all phrases; NaN without one."""

    decoder_cumulative_iou: float
    decoder_mean_iou: float
    refined_cumulative_iou: float
    refined_mean_iou: float
    phrases: int

    @property
    def selection_score(self) -> float:
        """What the best head is chosen by."""
        return self.refined_cumulative_iou

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True)
class ValidationResult:
    """Scores of all validation data together, and of each source."""

    whole: ValidationScores
    sources: dict[str, ValidationScores]
    """By the sources' names; the whole's alone where there is one source."""

    def to_dict(self) -> dict[str, float]:
        """Flat: "refined_mean_iou" of the whole, "COCO/refined_mean_iou" of a source."""
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
    """Scores over the pictures of all processes together, each of which brings its own.

    Args:
        head: what is measured.
        pictures: with the name of each one's source.
        names: all sources', the same in every process.
        accelerator: knows the processes.
    """
    device = accelerator.device
    # A source's: intersection, union, sum of IoU for decoder and refiner; then its phrases.
    sums = {name: torch.zeros(7, dtype=torch.float64) for name in source_names}
    for name, picture in pictures:
        output = predict_masks(head, picture.features, device=device)
        known = ~picture.ignored_masks
        truth = picture.masks & known
        decoded = resize_to_picture(output.mask_logits.float(), picture.features.geometry)
        for place, logits in ((0, decoded), (3, output.refined_logits)):
            overlap = compute_overlap((logits > 0).cpu() & known, truth)
            sums[name][place : place + 3] += _sums(overlap.intersection, overlap.union, overlap.iou)
        sums[name][6] += len(truth)
    gathered = accelerator.reduce(torch.stack(list(sums.values())), "sum")
    assert isinstance(gathered, Tensor)
    scores = {name: _scores(row) for name, row in zip(source_names, gathered, strict=True)}
    return ValidationResult(_scores(gathered.sum(dim=0)), scores)


def _scores(sums: Tensor) -> ValidationScores:
    total = sums.tolist()
    count = total[6] or float("nan")
    return ValidationScores(
        decoder_cumulative_iou=total[0] / (total[1] or float("nan")),
        decoder_mean_iou=total[2] / count,
        refined_cumulative_iou=total[3] / (total[4] or float("nan")),
        refined_mean_iou=total[5] / count,
        phrases=int(total[6]),
    )


def _sums(*columns: Tensor) -> Tensor:
    return torch.stack([column.sum() for column in columns])
