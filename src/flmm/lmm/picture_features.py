"""The vision tower's work, done once for a conversation's pictures and used by every question.

transformers' multimodal models take these features in the place of pixels (``mm_encoder_outputs``).
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import cast

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import PreTrainedModel

from flmm.lru_cache import LRUCache

_Features = Tensor | list[Tensor] | tuple[Tensor, ...]
_Encode = Callable[..., BaseModelOutputWithPooling]
# What the models read of an output; everything else of it would only fill memory.
_POOLER_OUTPUT, _DEEPSTACK_FEATURES, _INDICATOR_FEATURES = (
    "pooler_output", "deepstack_features", "visual_indicator_features",
)  # fmt: skip


class PictureFeatureCache:
    """What a frozen LMM's vision tower and projector make of pictures, remembered for a few."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._encode = cast(_Encode, model.base_model.get_image_features)
        self._model = model
        self.input_names = frozenset(inspect.signature(self._encode).parameters) - {"kwargs"}
        """What the vision tower takes of a prompt's inputs."""
        self._cache: LRUCache[BaseModelOutputWithPooling] = LRUCache()

    def get(
        self, inputs: Mapping[str, Tensor], to_device: Callable[[Tensor], Tensor]
    ) -> BaseModelOutputWithPooling:
        """The features of one conversation's pictures.

        ``inputs``: of its prompt, on the CPU; ``place`` brings them to the model.
        """
        taken = {name: inputs[name] for name in sorted(self.input_names & inputs.keys())}
        digest = blake2b(f"{self._model.dtype} {self._model.device}".encode())
        for name, tensor in taken.items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.numpy().tobytes())

        def make() -> BaseModelOutputWithPooling:
            placed = {name: to_device(tensor) for name, tensor in taken.items()}
            output = self._encode(**placed, return_dict=True)
            names = (_POOLER_OUTPUT, _DEEPSTACK_FEATURES, _INDICATOR_FEATURES)
            return _make_output(output, {name: output[name] for name in names if name in output})

        return self._cache.get_or_create(digest.digest(), make)

    def get_batch(
        self, prompt_inputs: Sequence[Mapping[str, Tensor]], to_device: Callable[[Tensor], Tensor]
    ) -> BaseModelOutputWithPooling:
        """The features of a batch: of each prompt's pictures, as ``of`` gives them, joined."""
        found: dict[tuple[int, ...], BaseModelOutputWithPooling] = {}
        parts = []
        for inputs in prompt_inputs:
            # Prompts about the same pictures share their tensors; pixels are digested once.
            same = tuple(id(inputs.get(name)) for name in sorted(self.input_names))
            if same not in found:
                found[same] = self.get(inputs, to_device)
            parts.append(found[same])
        return _concatenate_features(parts)


def _concatenate_features(
    parts: Sequence[BaseModelOutputWithPooling],
) -> BaseModelOutputWithPooling:
    """Several conversations' features as one batch's."""
    first = parts[0]
    whole: dict[str, object] = {
        _POOLER_OUTPUT: _concatenate([part[_POOLER_OUTPUT] for part in parts])
    }
    if _DEEPSTACK_FEATURES in first:
        layers = zip(*(part[_DEEPSTACK_FEATURES] for part in parts), strict=True)
        whole[_DEEPSTACK_FEATURES] = [_concatenate(layer) for layer in layers]
    if _INDICATOR_FEATURES in first:
        whole[_INDICATOR_FEATURES] = first[_INDICATOR_FEATURES]
    return _make_output(first, whole)


def _make_output(
    output: BaseModelOutputWithPooling, content: Mapping[str, object]
) -> BaseModelOutputWithPooling:
    """An output of the same class; the families' own classes have members of their own."""
    return cast(_Encode, type(output))(**content)


def _concatenate(parts: Sequence[_Features]) -> _Features:
    """Tensors one after the other, or lists of a tensor for each picture."""
    tensors = [part for part in parts if isinstance(part, Tensor)]
    if len(tensors) == len(parts):
        return torch.cat(tensors)
    return [tensor for part in parts for tensor in part]
