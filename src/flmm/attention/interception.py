"""A callback at every attention that transformers computes, while models keep theirs.

Some models decide by the name of their attention implementation which keys a token sees (DeepSeek
V3.2's sparse attention) or which tokens a layer computes (Gemma 4), so neither that name nor the
registered functions are changed: the lookup is, which all models share.
"""

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor, nn
from transformers import AttentionInterface

AttentionFunction = Callable[..., tuple[Tensor, Tensor | None]]
"""One of transformers: (module, query, key, value, mask, **options) to output and weights."""

AttentionCallback = Callable[..., None]
"""Called with (module, query, key, mask, **options) before the attention itself."""

_active_callback: ContextVar[AttentionCallback | None] = ContextVar("flmm_attention", default=None)
_get_interface = AttentionInterface.get_interface
_lock = threading.Lock()
_interceptions = 0


@contextmanager
def intercept_attention(callback: AttentionCallback) -> Iterator[None]:
    """Call back before every attention that this thread computes inside the ``with`` block.

    Other threads' models, and the implementation that each model is set to, stay as they are.
    """
    token = _active_callback.set(callback)
    _count_interceptions(1)
    try:
        yield
    finally:
        _count_interceptions(-1)
        _active_callback.reset(token)


def _count_interceptions(change: int) -> None:
    """Replace the lookup with the first interception of all threads, restore it after the last."""
    global _interceptions
    with _lock:
        _interceptions += change
        replaced = _get_intercepted_interface if _interceptions else _get_interface
        AttentionInterface.get_interface = replaced  # type: ignore[assignment, method-assign]


def _get_intercepted_interface(
    interface: AttentionInterface, implementation: str, default: AttentionFunction
) -> AttentionFunction:
    attend: AttentionFunction = _get_interface(interface, implementation, default)
    callback = _active_callback.get()
    return attend if callback is None else functools.partial(_call_back, callback, attend)


def _call_back(
    callback: AttentionCallback,
    attend: AttentionFunction,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: object,
) -> tuple[Tensor, Tensor | None]:
    callback(module, query, key, attention_mask, **options)
    return attend(module, query, key, value, attention_mask, **options)
