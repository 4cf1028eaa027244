"""The number type that frozen networks compute in."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Precision:
    """The number type of a network's matrix products and convolutions.

    Its weights and results stay float32, and positions in the picture are computed in it.
    """

    dtype: torch.dtype = torch.float32

    @classmethod
    def beside(cls, lmm_dtype: torch.dtype) -> Self:
        """Return the precision of masks beside an LMM of a number type.

        bfloat16 beside bfloat16, else float32: float16 would overflow in some SAMs.
        """
        return cls(torch.bfloat16 if lmm_dtype == torch.bfloat16 else torch.float32)

    @property
    def mark(self) -> str:
        """What the key of results adds: nothing for float32, as before there was a choice."""
        return "" if self.dtype == torch.float32 else f" {self.dtype}"

    def computing_on(self, device: torch.device) -> AbstractContextManager[object]:
        """Return a context in which networks on a device compute in this type.

        float32 leaves them as they are, also where training has chosen another type.
        """
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(device.type, self.dtype)

    def lower(self, value: Tensor) -> Tensor:
        """Return a value that such a context would else convert before each use."""
        return value if self.dtype == torch.float32 else value.to(self.dtype)

    def restore(self, result: Tensor) -> Tensor:
        """Return a result of such a context in float32."""
        return result if self.dtype == torch.float32 else result.float()
