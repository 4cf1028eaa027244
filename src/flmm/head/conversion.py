"""Conversion of the authors' published checkpoints (``.pth``, one an LMM) to a ``GroundingHead``.

Such a file is a pickled dict; its ``state_dict`` has the mask decoder as ``mask_head.*``, SAM as
``sam.model.*`` under the names of Meta's ``segment_anything``, ``text_proj.*`` and
``text_layer_weights``. It is untrusted, so no code in it is ever executed.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn
from transformers import SamModel

from flmm.attention.merge import MergeMethod
from flmm.errors import InputError, first_line
from flmm.head.config import HeadConfig
from flmm.head.model import GroundingHead
from flmm.head.official_weight_names import (
    StateDict,
    infer_mask_decoder_sizes,
    infer_sam_config,
    rename_mask_decoder,
    rename_sam,
    select_by_prefix,
)
from flmm.head.weights import find_mismatch, find_not_finite
from flmm.lmm.architecture import LMMArchitecture
from flmm.masks.unet import MaskDecoder
from flmm.segmenters.auto import load_segmenter
from flmm.segmenters.base import Segmenter
from flmm.segmenters.sam import SamSegmenter

TRAINER_GLOBAL_PREFIXES = ("mmengine.", "numpy.", "builtins.getattr")
"""Prefixes of the pickled classes in the trainer's logs, which are read as ``_InertStub``."""


class _InertStub:
    """A placeholder for an object of the trainer's logs; accepts any state and does nothing."""

    def __new__(cls, *_: object) -> "_InertStub":
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        return

    def __setstate__(self, _: object) -> None:
        return


def convert_official_checkpoint(
    source: str | Path | StateDict,
    *,
    segmenter: Segmenter | None = None,
    refiner_name_or_path: str = "facebook/sam-vit-large",
    base_model_name_or_path: str = "",
    base_model_revision: str | None = None,
    base_architecture: LMMArchitecture | None = None,
    merge: MergeMethod = "mean",
    upsample_input: int = 64,
    decoder_heads: int = 8,
) -> GroundingHead:
    """Convert the authors' checkpoint to a head, with sizes inferred from the tensors' shapes.

    Args:
        source: the ``.pth`` file, or its ``state_dict``.
        segmenter: a SAM; its vision encoder is used if the checkpoint has none, its prompt encoder
            and mask decoder are overwritten; None loads ``refiner_name_or_path``.
        refiner_name_or_path: the public SAM that the head was trained with.
        base_model_name_or_path, base_model_revision, base_architecture: the LMM that the head was
            trained on; its sizes are compared with the checkpoint's. Without them, it has one view
            of a picture.
        merge, upsample_input, decoder_heads: what no shape shows: how a phrase's tokens were
            merged, the U-Net's input side, and SAM's decoder heads (used only if the checkpoint
            holds a whole SAM).

    Raises:
        InputError: the file cannot be read, holds more than tensors and plain values, lacks a
            weight, or is for an LMM of other sizes.
    """
    state = source if isinstance(source, Mapping) else read_official_state_dict(source)
    required = ("mask_head.conv_seg.weight", "text_proj.weight", "text_layer_weights")
    decoder_state = select_by_prefix(state, "mask_head.")
    for name in required:
        if name not in state:
            raise InputError(f"the checkpoint has no {name}; give an F-LMM checkpoint with SAM")
    maps, base_channels, stages = infer_mask_decoder_sizes(decoder_state)
    layers = len(state["text_layer_weights"])
    if base_architecture and base_architecture.views is None:
        maps_of_a_view = base_architecture.layers * base_architecture.heads
        base_architecture = replace(base_architecture, views=max(1, maps // maps_of_a_view))
    views = (base_architecture.views if base_architecture else None) or 1
    heads, remainder = divmod(maps, layers * views)
    if remainder:
        raise InputError(
            f"the checkpoint has {maps} maps, no multiple of {views} views * {layers} layers; "
            "name the LMM that it was trained on"
        )
    config = HeadConfig(
        layers=layers,
        heads=heads,
        hidden_size=state["text_proj.weight"].shape[1],
        views=views,
        base_channels=base_channels,
        stages=stages,
        upsample_input=upsample_input,
        merge=merge,
        base_model_name_or_path=base_model_name_or_path,
        base_model_revision=base_model_revision,
        base_model_type=base_architecture.model_type if base_architecture else "",
        refiner_name_or_path=refiner_name_or_path,
    )
    if base_architecture and base_architecture.sizes != config.base_architecture.sizes:
        raise InputError(
            f"the checkpoint is for an LMM of {config.base_architecture.sizes}, and"
            f" {base_model_name_or_path!r} has {base_architecture.sizes}; name the LMM that it was"
            " trained on"
        )
    sam_state = rename_sam(select_by_prefix(state, "sam.model."))
    if "vision_encoder.pos_embed" in sam_state:
        segmenter = SamSegmenter(SamModel(infer_sam_config(sam_state, decoder_heads)))
    elif segmenter is None:
        segmenter = load_segmenter(refiner_name_or_path)
    head = GroundingHead(config, segmenter)
    _load_module_weights(head.mask_decoder, rename_mask_decoder(decoder_state), "mask_head")
    _load_module_weights(head.text_projection, select_by_prefix(state, "text_proj."), "text_proj")
    _load_sam_weights(segmenter.sam, sam_state)
    layer_weights = {"text_layer_weights": state["text_layer_weights"]}
    if problem := find_not_finite(layer_weights):
        raise InputError(f"the checkpoint {problem}; get it from its authors again")
    with torch.no_grad():
        head.layer_weights.copy_(state["text_layer_weights"])
    return head.eval()


def convert_mask_decoder(state: StateDict, upsample_input: int = 64) -> MaskDecoder:
    """Convert the authors' mask decoder weights (names without ``mask_head.``)."""
    decoder = MaskDecoder(*infer_mask_decoder_sizes(state), upsample_input)
    _load_module_weights(decoder, rename_mask_decoder(state), "mask_head")
    return decoder


def read_official_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint's ``state_dict`` without executing code from the file.

    Raises:
        InputError: no such file, no checkpoint, or one with anything but tensors, plain values and
            the known trainer's logs.
    """
    try:
        unsafe_globals = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        refused = [name for name in unsafe_globals if not name.startswith(TRAINER_GLOBAL_PREFIXES)]
        if refused:
            raise InputError(
                f"{path} holds {refused[0]}, which is not a tensor; it was not loaded, "
                "get the checkpoint from its authors"
            )
        stubs = [(_InertStub, name) for name in unsafe_globals]
        with torch.serialization.safe_globals([*stubs]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, UnpicklingError, EOFError, KeyError, IndexError) as error:
        raise _unreadable_error(path, error) from error
    except (ValueError, TypeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise _unreadable_error(path, error) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise InputError(f"{path} has no state_dict; give an F-LMM checkpoint")
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if len(tensors) != len(state):
        raise InputError(f"the state_dict of {path} holds more than tensors; it was not loaded")
    return tensors


def _load_sam_weights(sam: nn.Module, state: StateDict) -> None:
    """Load SAM's prompt encoder and mask decoder, and its vision encoder if ``state`` has it."""
    for name, module in sam.named_children():
        weights = select_by_prefix(state, f"{name}.")
        # The shared embedding is the prompt encoder's; the vision encoder may be missing.
        if weights or name in ("prompt_encoder", "mask_decoder"):
            _load_module_weights(module, weights, f"sam.model {name}")


def _load_module_weights(module: nn.Module, state: StateDict, name: str) -> None:
    if problem := find_mismatch(module.state_dict(), state):
        raise InputError(
            f"the checkpoint's {name} {problem}; "
            "give an F-LMM checkpoint and the SAM that it was trained with"
        )
    if problem := find_not_finite(state):
        raise InputError(f"the checkpoint's {name} {problem}; get it from its authors again")
    module.load_state_dict(state)


def _unreadable_error(path: str | Path, error: Exception) -> InputError:
    return InputError(
        f"cannot read {path} ({first_line(error)}); give a checkpoint made by torch.save"
    )
