"""Whether a vision tower makes each image token of the pixel values that are proposed for it.

Pixel values change at random, and the image features that change are compared. The vision tower's
attention is left out meanwhile, which lets every patch see all others, and so are the MLPs beside
it, which only take time.

Letters: ``F`` image features of a picture, ``T`` image tokens that show the picture, ``E`` pixel
values of a token.
"""

import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

_ROUNDS = 3
"""A wrong arrangement of T tokens is not noticed in about one of 2^(3·T) cases."""

_SPACING, _SPARSE_ROUNDS = 5, 8
"""Rows and columns between tokens that change at once; of the 25 ways to choose them, so many."""
_LEAST_TESTED, _RIGHT_SHARE = 8, 0.9

_MLP_ENDINGS = ("MLP", "Mlp", "FeedForward", "FFN")

_is_probing: ContextVar[bool] = ContextVar("flmm_probing", default=False)
_lock = threading.RLock()
"""Held while modules have another ``forward``, which one thread at a time may give them."""


@contextmanager
def without_attention(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Let attention modules among ``modules`` return zeros to this thread in the ``with`` block.

    So do MLPs that are their neighbours in a block, which adds what it gets to its input. Of
    attention modules in one another, only the innermost do: the outer ones add their input.
    """
    with _lock, ExitStack() as undo:
        undo.callback(_is_probing.reset, _is_probing.set(True))
        templates: _Templates = {}
        for module in _find_left_out(modules):
            undo.callback(_restore_forward, module, vars(module).get("forward"))
            module.forward = functools.partial(_forward, module, module.forward, templates)
        yield


def _find_left_out(modules: Iterable[nn.Module]) -> list[nn.Module]:
    left_out: dict[nn.Module, None] = {}
    for module in modules:
        children = list(module.children())
        attention = [child for child in children if _is_innermost_attention(child)]
        mlps = [child for child in children if type(child).__name__.endswith(_MLP_ENDINGS)]
        left_out |= dict.fromkeys(attention + mlps if attention else [])
        if _is_innermost_attention(module):
            left_out[module] = None
    return list(left_out)


def _is_innermost_attention(module: nn.Module) -> bool:
    return _is_attention(module) and sum(map(_is_attention, module.modules())) == 1


def _is_attention(module: nn.Module) -> bool:
    return type(module).__name__.endswith("Attention")


_Output = Tensor | tuple[Tensor, ...]
_Templates = dict[tuple[type[nn.Module], torch.Size], _Output]
"""What a module of each class returns for an input of each shape."""


def _forward(
    module: nn.Module,
    forward: Callable[..., _Output],
    templates: _Templates,
    *inputs: object,
    **options: object,
) -> _Output:
    """Return zeros of the right form, to the thread that probes; one module of a kind tells it."""
    if not _is_probing.get():
        return forward(*inputs, **options)
    shapes = (each.shape for each in (*inputs, *options.values()) if isinstance(each, Tensor))
    key = type(module), next(shapes, torch.Size())
    if key not in templates:
        templates[key] = forward(*inputs, **options)
    template = templates[key]
    if isinstance(template, Tensor):
        return torch.zeros_like(template)
    return (torch.zeros_like(template[0]), *template[1:])


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


def mostly_agrees_with_vision_tower(
    encode: Callable[[Tensor], Tensor],
    pixels: Tensor,
    shows_picture: Tensor,
    indices: Tensor,
    canvases: Sequence[Tensor],
) -> bool:
    """Tell whether features change more than those around them where their pixel values change.

    For vision towers whose convolutions overlap. Tokens far from one another change at once.

    Args:
        encode, pixels, shows_picture, indices: as of ``agrees_with_vision_tower``.
        canvases: (h, w) each, the tokens of a canvas as they lie in it.
    """
    before, after = draw_pixels(pixels)
    features = encode(before).float()
    spots = [(r, c) for r in range(_SPACING) for c in range(_SPACING)]
    order = torch.randperm(len(spots), generator=torch.Generator().manual_seed(3)).tolist()
    tested = right = 0
    for row, column in [spots[number] for number in order[:_SPARSE_ROUNDS]]:
        changed = torch.cat([c[row::_SPACING, column::_SPACING].flatten() for c in canvases])
        mixed = before.flatten().clone()
        places = indices[changed].flatten()
        mixed[places] = after.flatten()[places]
        difference = encode(mixed.reshape(pixels.shape)).float() - features
        change = difference[shows_picture].norm(dim=1).cpu()
        for canvas in canvases:
            for y in range(row, canvas.shape[0], _SPACING):
                for x in range(column, canvas.shape[1], _SPACING):
                    around = canvas[
                        max(y - _SPACING // 2, 0) : y + _SPACING // 2 + 1,
                        max(x - _SPACING // 2, 0) : x + _SPACING // 2 + 1,
                    ]
                    tested += 1
                    right += int(change[canvas[y, x]] == change[around].max() > 0)
    return tested >= _LEAST_TESTED and right >= _RIGHT_SHARE * tested
