"""The models of a grounder: a frozen LMM, and a head or a segmenter that masks come from."""

from pathlib import Path
from typing import Self

import torch
from transformers.utils.quantization_config import QuantizationConfigMixin

from flmm.grounding.loading import check_together, load_models
from flmm.grounding.pipeline import build_pipeline
from flmm.head.model import GroundingHead
from flmm.lmm.base import LMMAdapter
from flmm.lmm.placement import DeviceMap, Placement
from flmm.segmenters.base import Segmenter
from flmm.segmenters.precision import Precision
from flmm.training_free.profile import Profile
from flmm.user_input import parse_dtype, resolve_device


class GrounderModels:
    """A frozen LMM, and what the masks of its words come from.

    Masks come from a trained head or, without one, from the LMM's attention and a segmenter. Both
    are moved to the LMM's device, with weights in float32; beside an LMM in bfloat16 they compute
    in that.

    Args:
        adapter: the LMM, which is not changed.
        head: trained for an LMM of these sizes; None needs no training.
        segmenter: the SAM of masks without a head; None makes these from attention alone.
        profile: of masks without a head, from ``flmm calibrate``; None needs none.
        model: the head's name in answers; None for "training-free" without a head.
        lmm: the LMM's name in answers; None for the adapter's own.

    Raises:
        InputError: the head or profile is for another LMM, or is given beside what it excludes.
    """

    def __init__(
        self,
        adapter: LMMAdapter,
        head: GroundingHead | None = None,
        segmenter: Segmenter | None = None,
        profile: Profile | None = None,
        *,
        model: str | None = None,
        lmm: str | None = None,
    ) -> None:
        check_together(adapter, head, segmenter, profile)
        for module in (head, segmenter):
            if module is not None:
                module.to(adapter.device, torch.float32).eval()
        used_segmenter = segmenter if head is None else head.refiner.segmenter
        if used_segmenter is not None:
            used_segmenter.precision = Precision.beside(adapter.dtype)
        self.adapter, self.head, self.segmenter, self.profile = adapter, head, segmenter, profile
        self.pipeline = build_pipeline(adapter, head, segmenter, profile, model, lmm)
        self.model, self.lmm = self.pipeline.model_name, self.pipeline.lmm_name

    @classmethod
    def from_pretrained(
        cls,
        head: str | Path | None = None,
        *,
        lmm: str | Path | None = None,
        sam: str | Path | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        revision: str | None = None,
        device_map: DeviceMap | None = None,
        quantization_config: QuantizationConfigMixin | None = None,
    ) -> Self:
        """Load an LMM, with a head or without.

        Args:
            head: a folder or hub id, or a profile of ``flmm calibrate``; None for none if ``lmm``
                is given, else for the small model that comes with the package.
            lmm: a folder or hub id; None for the one that the head or profile is of.
            sam: a folder or hub id of the SAM of masks without a head, "none" for masks from
                attention alone; None for ``DEFAULT_SEGMENTER``. With a head, where its refiner's
                SAM comes from.
            device: such as "cpu" or "cuda:1"; None for the GPU when there is one.
            dtype: of the LMM: "float32", "bfloat16" or "float16"; None for float32 on the CPU
                and the checkpoint's own on a GPU. Beside an LMM in bfloat16 masks are computed in
                it too.
            revision: of the head's or profile's hub id.
            device_map: instead of ``device``: "auto" or transformers' map, which spreads the
                LMM over devices (needs the package accelerate).
            quantization_config: one of transformers', such as ``BitsAndBytesConfig``, for an LMM
                of 4 or 8 bits a weight. A list of what bitsandbytes skips takes the place of its
                own, ["lm_head"], and names parts from the start ("model.vision_tower").

        Raises:
            InputError: a model cannot be found or read, they do not belong together, there is no
                such device or dtype, or ``quantization_config`` skips a module that is not there.
        """
        device = resolve_device(device) if device_map is None else device
        placement = Placement(device, parse_dtype(dtype), device_map, quantization_config)
        head, lmm, sam = (None if name is None else str(name) for name in (head, lmm, sam))
        parts = load_models(head, lmm, sam, placement, revision)
        return cls(*parts.models, model=parts.model, lmm=parts.lmm)
