"""The order in memory of what SAM's mask decoders read.

Letters: ``P`` phrases, ``C`` width of the image embedding, ``e`` its side.
"""

import torch
from torch import Tensor, nn


def keep_channels_last(mask_decoder: nn.Module) -> None:
    """Let a mask decoder's transformer get its (P, C, e, e) inputs with the channels last.

    The transformer flattens them to tokens. Without this each token's channels lie e² apart, and
    additions and normalisations take four times as long. No value changes.
    """
    transformer = mask_decoder.get_submodule("transformer")
    transformer.register_forward_pre_hook(_move_channels_last, with_kwargs=True)


def _move_channels_last(
    _transformer: nn.Module, inputs: tuple[object, ...], named_inputs: dict[str, object]
) -> tuple[tuple[object, ...], dict[str, object]]:
    moved = {
        name: value.contiguous(memory_format=torch.channels_last)
        if isinstance(value, Tensor) and name.startswith("image_")
        else value
        for name, value in named_inputs.items()
    }
    return inputs, moved
