"""The training loss: binary cross-entropy plus Dice (paper section 3.4, step 5 of the method).

Letters: ``P`` phrases, ``a b`` size of the logits.
"""

from typing import Literal

from torch import Tensor
from torch.nn import functional

Reduction = Literal["mean", "sum", "none"]
"""Over phrases: their mean, their sum, or the (P,) values themselves."""


def binary_cross_entropy_loss(
    logits: Tensor, targets: Tensor, reduction: Reduction = "mean"
) -> Tensor:
    r"""Mean over a phrase's pixels of the cross-entropy of its mask.

    .. math:: \ell_p = -\frac{1}{ab} \sum_i t_i \log\sigma(x_i) + (1 - t_i) \log(1 - \sigma(x_i))

    Args:
        logits: (P, a, b), any real number.
        targets: (P, a, b) float in 0..1.
        reduction: over phrases.
    """
    # In float32, as is Dice: a sum of thousands of half precision values is rounded away.
    pixels = functional.binary_cross_entropy_with_logits(
        logits.float(), targets.float(), reduction="none"
    )
    return _reduce(pixels.flatten(1).mean(dim=1), reduction)


def dice_loss(
    logits: Tensor, targets: Tensor, reduction: Reduction = "mean", epsilon: float = 1.0
) -> Tensor:
    r"""One minus the soft Dice overlap (Milletari et al. 2016) of the mask, without squares.

    .. math:: \ell_p = 1 - \frac{2 \sum_i \sigma(x_i) t_i + \epsilon}
                                {\sum_i \sigma(x_i) + \sum_i t_i + \epsilon}

    Args:
        logits: (P, a, b), any real number.
        targets: (P, a, b) float in 0..1.
        reduction: over phrases.
        epsilon: keeps an empty mask's loss finite, and zero when nothing is predicted.
    """
    chance = logits.float().sigmoid().flatten(1)
    truth = targets.float().flatten(1)
    overlap = (chance * truth).sum(dim=1)
    total = chance.sum(dim=1) + truth.sum(dim=1)
    return _reduce(1 - (2 * overlap + epsilon) / (total + epsilon), reduction)


def mask_loss(logits: Tensor, targets: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Cross-entropy plus Dice, weight 1 each: the loss of the decoder's and the refiner's logits.

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
