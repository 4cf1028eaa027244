"""Where an LMM's weights go when it is loaded, and as what numbers."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from transformers.utils.quantization_config import QuantizationConfigMixin

from flmm.errors import InputError

DeviceMap = str | Mapping[str, str | int]
"""transformers' ``device_map``: "auto", or a device for each part."""


@dataclass(frozen=True)
class Placement:
    """Everything is loaded straight to its place, so that memory holds the weights once.

    Raises:
        InputError: both a device and a device map are given.
    """

    device: str | torch.device | None = None
    """None for the CPU, or wherever the other settings put the weights."""
    dtype: torch.dtype | None = None
    """None for float32 on the CPU and the checkpoint's own type elsewhere."""
    device_map: DeviceMap | None = None
    """Spreads the layers over devices; needs the package accelerate."""
    quantization_config: QuantizationConfigMixin | None = None
    """Weights of 4 or 8 bits; needs the package that it names."""

    def __post_init__(self) -> None:
        if self.device is not None and self.device_map is not None:
            raise InputError(
                f"both device {str(self.device)!r} and device_map {self.device_map!r} are given;"
                " leave one out"
            )

    @property
    def from_pretrained_kwargs(self) -> dict[str, object]:
        """For transformers' ``from_pretrained``."""
        chosen: dict[str, object] = {"dtype": self._dtype}
        if self.device_map is not None:
            chosen["device_map"] = self.device_map
        if self.quantization_config is not None:
            chosen["quantization_config"] = self.quantization_config
            if self.device is not None:
                # Quantised weights cannot be moved once they are there.
                chosen["device_map"] = {"": str(self.device)}
        return chosen

    @property
    def target_device(self) -> torch.device | None:
        """Where plain weights go after loading; None where they are in their place already."""
        if self.device is None or self.quantization_config is not None:
            return None
        return torch.device(self.device)

    @property
    def _dtype(self) -> torch.dtype | str:
        if self.dtype is not None:
            return self.dtype
        if self.device_map is not None or self.quantization_config is not None:
            return "auto"
        on_cpu = self.device is None or torch.device(self.device).type == "cpu"
        return torch.float32 if on_cpu else "auto"
