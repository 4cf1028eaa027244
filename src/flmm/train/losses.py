"""The training loss: binary cross-entropy plus Dice (paper section 3.4, step 5 of the method).

Letters: ``P`` phrases, ``a b`` size of the logits.
"""

from typing import Literal

from torch import Tensor
from torch.nn import functional

Reduction = Literal["mean", "sum", "none"]
"""Over phrases: their mean, their sum, or the (P,) values."""


def binary_cross_entropy_loss(
    logits: Tensor, targets: Tensor, reduction: Reduction = "mean"
) -> Tensor:
    r"""Return each mask's binary cross-entropy, a mean over its pixels.

    .. math:: \ell_p = -\frac{1}{ab} \sum_i t_i \log\sigma(x_i) + (1 - t_i) \log(1 - \sigma(x_i))

    Args:
        logits: (P, a, b), any real number.
        targets: (P, a, b) float in 0..1.
        reduction: over phrases.
    """
    # In float32, as Dice is: half precision loses too much in a sum of thousands of values.
    pixels = functional.binary_cross_entropy_with_logits(
        logits.float(), targets.float(), reduction="none"
    )
    return _reduce(pixels.flatten(1).mean(dim=1), reduction)


def dice_loss(
    logits: Tensor, targets: Tensor, reduction: Reduction = "mean", epsilon: float = 1.0
) -> Tensor:
    r"""Return one minus each mask's soft Dice overlap (Milletari et al. 2016), without squares.

    .. math:: \ell_p = 1 - \frac{2 \sum_i \sigma(x_i) t_i + \epsilon}
                                {\sum_i \sigma(x_i) + \sum_i t_i + \epsilon}

    Args:
        logits: (P, a, b), any real number.
        targets: (P, a, b) float in 0..1.
        reduction: over phrases.
        epsilon: keeps an empty mask's loss finite, and zero when nothing is predicted.
    """
    probability = logits.float().sigmoid().flatten(1)
    truth = targets.float().flatten(1)
    overlap = (probability * truth).sum(dim=1)
    total = probability.sum(dim=1) + truth.sum(dim=1)
    return _reduce(1 - (2 * overlap + epsilon) / (total + epsilon), reduction)


def mask_loss(logits: Tensor, targets: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Return cross-entropy plus Dice, weight 1 each: the loss of decoder and refiner logits.

    Args:
        logits: (P, a, b).
        targets: (P, a, b) float in 0..1, the true masks at the logits' resolution.
        reduction: over phrases.
    """
    return binary_cross_entropy_loss(logits, targets, reduction) + dice_loss(
        logits, targets, reduction
    )


def _reduce(values: Tensor, reduction: Reduction) -> Tensor:
    if reduction == "mean":
        return values.mean()
    return values.sum() if reduction == "sum" else values
