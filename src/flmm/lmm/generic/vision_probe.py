"""Whether a vision tower makes each image token of the pixel values that are proposed for it.

Pixel values change at random, and the image features that change are compared. The vision tower's
attention is left out meanwhile, which lets every patch see all others.

Letters: ``F`` image features of a picture, ``T`` image tokens that show the picture, ``E`` pixel
values of a token.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

_ROUNDS = 3
"""A wrong arrangement of T tokens is not noticed in about one of 2^(3·T) cases."""


_is_probing: ContextVar[bool] = ContextVar("flmm_probing", default=False)


@contextmanager
def without_attention(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Let attention modules among ``modules`` return zeros to this thread in the ``with`` block.

    Of attention modules in one another, only the innermost: the outer ones add their input.
    """
    with ExitStack() as undo:
        undo.callback(_is_probing.reset, _is_probing.set(True))
        for module in modules:
            if sum(map(_is_attention, module.modules())) == 1 and _is_attention(module):
                undo.callback(module.register_forward_hook(_return_zeros).remove)
        yield


def _is_attention(module: nn.Module) -> bool:
    return type(module).__name__.endswith("Attention")


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


def _return_zeros(
    _module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]
) -> Tensor | tuple[Tensor, ...]:
    if not _is_probing.get():
        return output
    if isinstance(output, Tensor):
        return torch.zeros_like(output)
    return (torch.zeros_like(output[0]), *output[1:])
