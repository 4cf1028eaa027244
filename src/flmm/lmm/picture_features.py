"""A cache of the vision tower's features, computed once for the pictures of a conversation.

transformers' multimodal models take these features in place of pixels (``mm_encoder_outputs``).
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
_Layer = _Features | tuple[int, _Features]
"""What a layer of the LLM adds, with the number of that layer if it is not the n-th of n."""
EncodePictures = Callable[..., BaseModelOutputWithPooling]
"""A vision tower and projector: from a prompt's inputs, by name, to the pictures' features."""
# The members of an output that the models read; others would only fill the cache's memory.
_POOLER_OUTPUT, _DEEPSTACK_FEATURES, _INDICATOR_FEATURES = (
    "pooler_output", "deepstack_features", "visual_indicator_features",
)  # fmt: skip


class PictureFeatureCache:
    """A least recently used cache of what a frozen LMM's vision tower and projector return."""

    def __init__(self, model: PreTrainedModel, encode: EncodePictures) -> None:
        self._encode = encode
        self._model = model
        self.input_names = frozenset(inspect.signature(self._encode).parameters) - {"kwargs"}
        """The inputs of a prompt that the vision tower takes."""
        self._cache: LRUCache[BaseModelOutputWithPooling] = LRUCache()

    def get(
        self, inputs: Mapping[str, Tensor], to_device: Callable[[Tensor], Tensor]
    ) -> BaseModelOutputWithPooling:
        """Return the features of one conversation's pictures, computed if they are not cached.

        ``inputs``: the prompt's, on the CPU; ``to_device`` moves them to the model's device.
        """
        vision_inputs = {name: inputs[name] for name in sorted(self.input_names & inputs.keys())}
        digest = blake2b(f"{self._model.dtype} {self._model.device}".encode())
        for name, tensor in vision_inputs.items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.numpy().tobytes())

        def encode() -> BaseModelOutputWithPooling:
            on_device = {name: to_device(tensor) for name, tensor in vision_inputs.items()}
            output = self._encode(**on_device, return_dict=True)
            names = (_POOLER_OUTPUT, _DEEPSTACK_FEATURES, _INDICATOR_FEATURES)
            return _make_output(output, {name: output[name] for name in names if name in output})

        return self._cache.get_or_create(digest.digest(), encode)

    def get_each(
        self, prompt_inputs: Sequence[Mapping[str, Tensor]], to_device: Callable[[Tensor], Tensor]
    ) -> list[BaseModelOutputWithPooling]:
        """Return ``get`` of each prompt's inputs."""
        features: dict[tuple[int, ...], BaseModelOutputWithPooling] = {}
        parts = []
        for inputs in prompt_inputs:
            # Prompts about the same pictures share their tensors, which are then hashed once.
            key = tuple(id(inputs.get(name)) for name in sorted(self.input_names))
            if key not in features:
                features[key] = self.get(inputs, to_device)
            parts.append(features[key])
        return parts

    def get_batch(
        self, prompt_inputs: Sequence[Mapping[str, Tensor]], to_device: Callable[[Tensor], Tensor]
    ) -> BaseModelOutputWithPooling:
        """Return ``get_each``, concatenated for a batch."""
        return _concatenate_features(self.get_each(prompt_inputs, to_device))


def _concatenate_features(
    parts: Sequence[BaseModelOutputWithPooling],
) -> BaseModelOutputWithPooling:
    first = parts[0]
    whole: dict[str, object] = {}
    if _POOLER_OUTPUT in first:
        whole[_POOLER_OUTPUT] = _concatenate([part[_POOLER_OUTPUT] for part in parts])
    if _DEEPSTACK_FEATURES in first:
        layers = zip(*(part[_DEEPSTACK_FEATURES] for part in parts), strict=True)
        whole[_DEEPSTACK_FEATURES] = [_concatenate_layer(layer) for layer in layers]
    if _INDICATOR_FEATURES in first:
        whole[_INDICATOR_FEATURES] = first[_INDICATOR_FEATURES]
    return _make_output(first, whole)


def stack_features(output: BaseModelOutputWithPooling) -> Tensor:
    """Return the (F, width) features of one picture's F image tokens.

    Without features that take the place of embeddings, those that layers of the LLM add.
    """
    features = output.pooler_output
    if features is None and _DEEPSTACK_FEATURES in output:
        layers = [_split_layer(layer)[1] for layer in output[_DEEPSTACK_FEATURES]]
        return torch.cat([_flatten(layer) for layer in layers], dim=1)
    return _flatten(features)


def _flatten(features: _Features | None) -> Tensor:
    parts = [features] if isinstance(features, Tensor) else list(features or ())
    return torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])


def _split_layer(layer: _Layer) -> tuple[int | None, _Features]:
    """Return the number of the LLM's layer that gets the features, if they come with it."""
    if isinstance(layer, tuple) and isinstance(layer[0], int):
        return layer[0], layer[1]
    return None, layer


def _concatenate_layer(layers: Sequence[_Layer]) -> _Layer:
    split = [_split_layer(layer) for layer in layers]
    number = split[0][0]
    features = _concatenate([features for _, features in split])
    return features if number is None else (number, features)


def _make_output(
    output: BaseModelOutputWithPooling, content: Mapping[str, object]
) -> BaseModelOutputWithPooling:
    """Return an output of the same class, since families' classes have members of their own."""
    return cast(EncodePictures, type(output))(**content)


def _concatenate(parts: Sequence[_Features]) -> _Features:
    """Concatenate tensors, or lists of one tensor for each picture."""
    tensors = [part for part in parts if isinstance(part, Tensor)]
    if len(tensors) == len(parts):
        return torch.cat(tensors)
    return [tensor for part in parts for tensor in part]
