"""From the tokens of a phrase to one set of attention maps (paper section 3.1).

Letters: ``M`` layers, ``N`` heads, ``T`` tokens of the phrase, ``h w`` image-token grid.
"""

from typing import Literal

from torch import Tensor

from flmm.errors import InputError

MergeMethod = Literal["mean", "max"]
"""How the attention of a phrase's tokens becomes one map."""


def merge_token_maps(attention: Tensor, merge: MergeMethod = "mean") -> Tensor:
    """Merges the attention of one phrase's tokens.

    Args:
        attention: (M, N, T, h, w) of these tokens alone.
        how: "mean" or "max" over the tokens, each layer, head and image token by itself.

    Returns:
        (M*N, h, w), layer by layer, the heads of a layer together.

    Raises:
        InputError: no token, or another ``how``.
    """
    if not attention.shape[2]:
        raise InputError("the phrase has no token; give at least one token of the answer")
    if merge == "mean":
        merged = attention.mean(dim=2)
    elif merge == "max":
        merged = attention.amax(dim=2)
    else:
        raise InputError(f"merge is {merge!r}; choose 'mean' or 'max'")
    return merged.flatten(0, 1)
