"""Whether a vision tower makes each image token of the pixel values that are proposed for it.

Pixel values change at random, and the image features that change are compared. The vision tower's
attention is left out meanwhile, which lets every patch see all others, and so is all that stands in
blocks beside it, which only takes time.

Letters: ``F`` image features of a picture, ``T`` image tokens that show the picture, ``E`` pixel
values of a token.
"""

import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

_ROUNDS = 3
"""A wrong arrangement of T tokens is not noticed in about one of 2^(3·T) cases."""

_is_probing: ContextVar[bool] = ContextVar("flmm_probing", default=False)
_lock = threading.RLock()
"""Held while modules have another ``forward``, which one thread at a time may give them."""


@contextmanager
def without_attention(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Let attention modules among ``modules`` return zeros to this thread in the ``with`` block.

    Of attention modules in one another, only the innermost do: the outer ones add their input. A
    block of a list of blocks is left out as a whole if the first of its class returns as many
    states as it gets, since it then adds nothing that tells where they come from. Attention that
    pools states into one stays.
    """
    with _lock, ExitStack() as undo:
        undo.callback(_is_probing.reset, _is_probing.set(True))
        left_out: dict[nn.Module, _LeaveOut] = {}
        for module in modules:
            if isinstance(module, nn.ModuleList):
                blocks = [block for block in module if any(map(_is_attention, block.children()))]
                left_out |= dict.fromkeys(blocks, _return_input)
            if _is_attention(module) and sum(map(_is_attention, module.modules())) == 1:
                left_out[module] = _return_zeros
        first_outputs: _FirstOutputs = {}
        for module, leave_out in left_out.items():
            undo.callback(_restore_forward, module, vars(module).get("forward"))
            module.forward = functools.partial(
                _forward, type(module), module.forward, leave_out, first_outputs
            )
        yield


def _is_attention(module: nn.Module) -> bool:
    return type(module).__name__.endswith("Attention")


_Output = Tensor | tuple[Tensor, ...]
_LeaveOut = Callable[[Tensor, _Output], _Output | None]
"""From the states that a module gets, and what the first of its class and of such states returns,
to what it returns instead; None if it cannot be left out."""
_FirstOutputs = dict[tuple[type[nn.Module], torch.Size], _Output]


def _return_zeros(_states: Tensor, first_output: _Output) -> _Output:
    if isinstance(first_output, Tensor):
        return torch.zeros_like(first_output)
    return (torch.zeros_like(first_output[0]), *first_output[1:])


def _return_input(states: Tensor, first_output: _Output) -> _Output | None:
    if isinstance(first_output, Tensor):
        return states if first_output.shape == states.shape else None
    is_same = isinstance(first_output[0], Tensor) and first_output[0].shape == states.shape
    return (states, *first_output[1:]) if is_same else None


def _forward(
    module_class: type[nn.Module],
    forward: Callable[..., _Output],
    leave_out: _LeaveOut,
    first_outputs: _FirstOutputs,
    *inputs: object,
    **options: object,
) -> _Output:
    """Return what a module that is left out returns, to the thread that probes."""
    if not _is_probing.get():
        return forward(*inputs, **options)
    tensors = [each for each in (*inputs, *options.values()) if isinstance(each, Tensor)]
    assert tensors, "attention and blocks are given states"
    if _pools_into_one(tensors):
        return forward(*inputs, **options)
    states = tensors[0]
    key = module_class, states.shape
    is_first = key not in first_outputs
    if is_first:
        first_outputs[key] = forward(*inputs, **options)
    output = leave_out(states, first_outputs[key])
    if output is None:
        return first_outputs[key] if is_first else forward(*inputs, **options)
    return output


def _pools_into_one(tensors: list[Tensor]) -> bool:
    """Tell whether attention is given one query, and apart from it the states that it pools.

    Patches of a window become a token by it, and nothing else: without it, tokens show nothing.
    """
    if len(tensors) < 2 or any(each.ndim != 3 for each in tensors[:2]):
        return False
    return tensors[0].shape[1] == 1 < tensors[1].shape[1]


def _restore_forward(module: nn.Module, own_forward: object) -> None:
    """Give a module what it had: the ``forward`` of its class, unless it had its own."""
    if own_forward is None:
        del module.forward
    else:
        vars(module)["forward"] = own_forward


def draw_pixels(pixels: Tensor) -> Tensor:
    """Return (2, *shape) random pixel values of the size of normalised ones, always the same."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand((2, *pixels.shape), generator=generator) * 4 - 2


def find_picture_features(encode: Callable[[Tensor], Tensor], pixels: Tensor) -> Tensor:
    """Find the features that depend on pixel values; row breaks and end marks do not.

    Args:
        encode: from pixel values to (F, width) features, without attention.
        pixels: of the right shape; their values do not matter.

    Returns:
        (F,) bool.
    """
    first, second = draw_pixels(pixels)
    return (encode(first) != encode(second)).any(dim=1)


def agrees_with_vision_tower(
    encode: Callable[[Tensor], Tensor], pixels: Tensor, shows_picture: Tensor, indices: Tensor
) -> bool:
    """Tell whether the features change whose pixel values change, and no others.

    Args:
        encode: from pixel values to (F, width) features, without attention.
        pixels: of the right shape; their values do not matter.
        shows_picture: (F,) bool with T true, from ``find_picture_features``.
        indices: (T, E) into the flattened pixel values.
    """
    before, after = draw_pixels(pixels)
    features = encode(before)
    generator = torch.Generator().manual_seed(1)
    for _ in range(_ROUNDS):
        changed = torch.rand(len(indices), generator=generator) < 0.5
        mixed = before.flatten().clone()
        places = indices[changed].flatten()
        mixed[places] = after.flatten()[places]
        differs = (encode(mixed.reshape(pixels.shape)) != features).any(dim=1).cpu()
        if differs[~shows_picture].any() or not differs[shows_picture].equal(changed):
            return False
    return True
