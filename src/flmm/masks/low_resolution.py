"""Mask logits before they are enlarged to the picture's size.

Letters: ``P`` phrases, ``a b`` size of the logits, ``H W`` picture size.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True, eq=False)
class LowResolutionLogits:
    """Mask logits that take little memory, and how they are enlarged to the picture."""

    logits: Tensor
    """(P, a, b)."""
    enlarge: Callable[[Tensor], Tensor]
    """From (P, a, b) to (P, H, W); it holds no model, and can be pickled."""

    def of_phrase(self, index: int) -> "LowResolutionLogits":
        """Return one phrase's logits, (1, a, b)."""
        return replace(self, logits=self.logits[index : index + 1])

    def copy_to_cpu(self) -> "LowResolutionLogits":
        """Return a copy on the CPU that keeps nothing else in memory."""
        return replace(self, logits=self.logits.detach().cpu().clone())

    def to_picture(self) -> Tensor:
        """Return the (P, H, W) logits."""
        return self.enlarge(self.logits)
