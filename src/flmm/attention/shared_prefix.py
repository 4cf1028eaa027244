"""Texts about one picture in forward passes that read their common beginning only once.

A picture has hundreds of tokens and a phrase has ten, so that five phrases then take a quarter of
the time of five whole sequences.

Letters: ``B`` sequences, ``N`` heads, ``P`` tokens of the prefix, ``Q`` tokens after it, ``d`` a
head's width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional
from transformers.cache_utils import DynamicLayer

from flmm.lmm.base import LMMAdapter
from flmm.lmm.preallocated_cache import create_dynamic_cache
from flmm.lmm.prompt import Prompt

_MIN_TOKENS_AFTER = 2
"""A single token would be taken for a step of a generation."""


def group_by_prefix(
    adapter: LMMAdapter, prompts: Sequence[Prompt], starts: Sequence[int]
) -> list[tuple[int, list[int]]]:
    """Return how prompts are read together.

    Args:
        adapter: the LMM.
        prompts: of any pictures.
        starts: of each prompt, the first position that is recorded.

    Returns:
        (P, indices of prompts): prompts about the same picture with P tokens, all of the picture's
        among them, that they have in common; P is 0 for the others, which share nothing.
    """
    by_picture: dict[tuple[int, ...], list[int]] = {}
    if _can_share_prefix(adapter):
        for index, prompt in enumerate(prompts):
            if prompt.picture_views:
                # Prompts that were built together have the image processor's tensors in common.
                key = tuple(id(prompt.inputs.get(name)) for name in adapter.image_input_names)
                by_picture.setdefault(key, []).append(index)
    groups = []
    for indices in by_picture.values():
        length = _measure_prefix([prompts[index] for index in indices])
        length = min(length, *(starts[index] for index in indices))
        if len(indices) > 1 and int(prompts[indices[0]].image_token_positions.max()) < length:
            groups.append((length, indices))
    shared = {index for _, indices in groups for index in indices}
    if others := [index for index in range(len(prompts)) if index not in shared]:
        groups.append((0, others))
    return groups


class SharedPrefix:
    """The beginning of some prompts, read once.

    Args:
        adapter: the LMM; hold its ``recording_lock`` until the last pass, since models keep what
            they know of the picture's positions.
        prompt: any of the prompts.
        length: P, from ``group_by_prefix``.
    """

    @torch.no_grad()
    def __init__(self, adapter: LMMAdapter, prompt: Prompt, length: int) -> None:
        self._adapter = adapter
        self.length = length
        names = ("input_ids", "attention_mask", *adapter.token_type_input_names)
        cut = {name: prompt.inputs[name][:, :length] for name in names}
        batch = adapter.collate([replace(prompt, inputs={**prompt.inputs, **cut})])
        cache = create_dynamic_cache(adapter.model)
        assert cache is not None
        adapter.model.base_model(**batch.model_inputs, cache=cache, use_cache=True)
        cache.layers = [_PrefixLayer(layer) for layer in cache.layers]
        self._cache = cache

    def model_inputs(self, prompts: Sequence[Prompt]) -> Mapping[str, object]:
        """Return the model's arguments for what follows in B prompts, padded at the end.

        No token sees the padding, which comes after it.
        """
        longest = max(prompt.length for prompt in prompts) - self.length
        rows = []
        for prompt in prompts:
            following = prompt.inputs["input_ids"][:, self.length :]
            padding = (0, longest - following.shape[1])
            rows.append(functional.pad(following, padding, value=self._adapter.pad_token_id))
        token_ids = torch.cat(rows).to(self._adapter.device)
        # Without a mask, since some models take its length for that of this pass.
        return {"input_ids": token_ids, "cache": self._cache, "use_cache": True}


class _PrefixLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """A layer's keys and values of the prefix, to which those of a pass are added for that pass."""

    def __init__(self, filled: object) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        assert isinstance(filled, DynamicLayer)
        assert filled.keys is not None
        assert filled.values is not None
        self.lazy_initialization(filled.keys, filled.values)
        self.keys, self.values = filled.keys, filled.values

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Return the (B, N, P + Q, d) keys and values of the prefix and of the next tokens."""
        return _append(self.keys, key_states), _append(self.values, value_states)


def _append(prefix: Tensor | None, states: Tensor) -> Tensor:
    assert prefix is not None
    return torch.cat([prefix.expand(len(states), -1, -1, -1), states], dim=-2)


def _can_share_prefix(adapter: LMMAdapter) -> bool:
    """Return whether the LLM's tokens depend on those before them alone, by keys of all of them."""
    if not adapter.image_tokens_in_sequence or adapter.placeless_reason is not None:
        return False
    # By marks of this name, image tokens or whole questions see each other both ways.
    if "token_type_ids" in adapter.token_type_input_names or adapter.sequence_input_names:
        return False
    implementation = adapter.text_model.config._attn_implementation
    if implementation not in ("eager", "sdpa"):
        return False
    cache = create_dynamic_cache(adapter.model)
    return cache is not None and all(type(layer) is DynamicLayer for layer in cache.layers)


def _measure_prefix(prompts: Sequence[Prompt]) -> int:
    """Return how many tokens the prompts have in common, with ``_MIN_TOKENS_AFTER`` after them."""
    longest = min(prompt.length for prompt in prompts) - _MIN_TOKENS_AFTER
    first = prompts[0].inputs["input_ids"][0, :longest]
    length = longest
    for prompt in prompts[1:]:
        differs = (prompt.inputs["input_ids"][0, :longest] != first).nonzero()
        if len(differs):
            length = min(length, int(differs[0]))
    return length
