"""Merging the attention maps of a phrase's tokens into one set (paper section 3.1).

Letters: ``M`` layers, ``N`` heads, ``T`` tokens of the phrase, ``h w`` image-token grid.
"""

from typing import Literal

from torch import Tensor

from flmm.errors import InputError

MergeMethod = Literal["mean", "max"]
"""How the maps of a phrase's tokens are merged."""


def merge_token_maps(attention: Tensor, merge: MergeMethod = "mean") -> Tensor:
    """Merge the attention maps of one phrase's tokens.

    Args:
        attention: (M, N, T, h, w) of these tokens only.
        merge: "mean" or "max" over the tokens, for each layer, head and image token.

    Returns:
        (M*N, h, w), layer by layer, the heads of a layer together.

    Raises:
        InputError: no token, or another ``merge``.
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
