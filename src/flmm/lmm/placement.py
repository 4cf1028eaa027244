"""The device, dtype and quantisation with which an LMM is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from transformers.utils.quantization_config import QuantizationConfigMixin

from flmm.errors import InputError

DeviceMap = str | Mapping[str, str | int]
"""transformers' ``device_map``: "auto", or a device for each part."""


@dataclass(frozen=True)
class Placement:
    """The devices and the number type of an LMM's weights.

    Weights are loaded straight to their device wherever transformers can, so that memory holds them
    once.

    Raises:
        InputError: both a device and a device map are given.
    """

    device: str | torch.device | None = None
    """None for the CPU, or where the other settings put the weights."""
    dtype: torch.dtype | None = None
    """None for float32 on the CPU and the checkpoint's dtype elsewhere."""
    device_map: DeviceMap | None = None
    """Spreads the layers over devices; needs the package accelerate."""
    quantization_config: QuantizationConfigMixin | None = None
    """For weights of 4 or 8 bits; needs the package of the method that it names."""

    def __post_init__(self) -> None:
        if self.device is not None and self.device_map is not None:
            raise InputError(
                f"both device {str(self.device)!r} and device_map {self.device_map!r} are given;"
                " leave one out"
            )

    @property
    def from_pretrained_kwargs(self) -> dict[str, object]:
        """The arguments for transformers' ``from_pretrained``."""
        kwargs: dict[str, object] = {"dtype": self._dtype}
        if self.device_map is not None:
            kwargs["device_map"] = self.device_map
        if self.quantization_config is not None:
            kwargs["quantization_config"] = self.quantization_config
            if self.device is not None:
                # Quantised weights cannot be moved after loading.
                kwargs["device_map"] = {"": str(self.device)}
        return kwargs

    @property
    def target_device(self) -> torch.device | None:
        """The device to move the weights to after loading; None if they are there already."""
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
