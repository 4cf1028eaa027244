"""The mean probability of a mask's pixels.

Letters: ``H W`` picture size.
"""

from torch import Tensor


def compute_mean_probability(logits: Tensor, mask: Tensor | None = None) -> float:
    """Return the mean probability inside a mask; 0 where it is empty.

    Args:
        logits: (H, W).
        mask: (H, W) bool; None for the pixels whose probability is above 0.5.
    """
    mask = logits > 0 if mask is None else mask
    return float(logits.masked_select(mask).sigmoid_().mean()) if mask.any() else 0.0
