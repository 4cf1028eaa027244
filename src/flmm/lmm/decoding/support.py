"""Which LMMs the decoding engine runs; all others generate as transformers does."""

from collections.abc import Callable
from inspect import signature
from typing import cast

from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer
from transformers.generation.utils import GenerationMixin

from flmm.lmm.base import LMMAdapter

_LAYER_TYPES = {"full_attention", "sliding_attention"}


def find_unsupported_reason(adapter: LMMAdapter) -> str | None:
    """Return why the engine cannot run an LMM, None if it can.

    It can where every layer is self-attention to all earlier tokens or to a window of them, and
    masks and positions can be given. Whatever else an LMM may have is found by its structure.
    """
    model, config = adapter.model, adapter.text_model.config
    if not adapter.image_tokens_in_sequence:
        return "it has layers for cross-attention to pictures"
    if getattr(type(model), "generate", None) is not GenerationMixin.generate:
        return "it has a generate method of its own"
    # transformers types its models' methods as tensors.
    if not cast(Callable[[], bool], model._supports_default_dynamic_cache)():
        return "it has a cache of its own"
    if len(set(getattr(model, "hf_device_map", {}).values())) > 1:
        return "it is spread over several devices"
    if config._attn_implementation not in ("sdpa", "eager"):
        return f"its attention is {config._attn_implementation!r}, which takes no masks"
    if "position_ids" not in signature(adapter.text_model.forward).parameters:
        return "it takes no positions"
    layers = DynamicCache(config=config).layers
    others = {type(layer).__name__ for layer in layers} - {
        DynamicLayer.__name__,
        DynamicSlidingWindowLayer.__name__,
    }
    if others:
        return f"its cache has layers of the type {', '.join(sorted(others))}"
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds <= _LAYER_TYPES:
        return f"it has layers of the type {', '.join(sorted(kinds - _LAYER_TYPES))}"
    if not kinds and len({type(layer) for layer in layers}) > 1:
        return "it has windows in layers that it does not name"
    return None
