"""What both recorders take from a model's layers, and what they refuse.

Letters: ``B`` sequences, ``Q`` queries, ``D`` LLM width.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from flmm.errors import InputError

_UNSUPPORTED_OPTIONS = ("position_bias",)
_SPARSE_OPTIONS = ("indices", "block_indices")
"""Keys that each token sees, beside a mask without them, but for eager and sdpa."""


def check_attention_options(module: nn.Module, options: Mapping[str, object]) -> None:
    """Check the options of transformers' attention functions.

    Raises:
        InputError: the model attends in a way that cannot be recorded.
    """
    implementation = getattr(module.config, "_attn_implementation", None)
    has_whole_mask = implementation in ("eager", "sdpa")
    for name in _UNSUPPORTED_OPTIONS + (() if has_whole_mask else _SPARSE_OPTIONS):
        if options.get(name) is not None:
            raise InputError(
                f"the LMM attends with {name!r}, which flmm cannot record; choose another LMM"
            )


def refuse_unseen_layer(layer: int) -> InputError:
    """Return the error of a layer whose attention was not seen."""
    return InputError(
        f"the LMM's layer {layer} does not attend through transformers' attention interface, so"
        " flmm cannot record it; choose another LMM"
    )


def average_streams(states: Tensor, width: int) -> Tensor:
    """Return (B, Q, D): the mean of a token's streams where layers keep several of ``width`` D."""
    if states.shape[2:] == (width,):
        return states
    return states.reshape(*states.shape[:2], -1, width).mean(dim=2)
