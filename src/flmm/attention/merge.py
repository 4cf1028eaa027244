"""From the tokens of a phrase to one set of attention maps (paper section 3.1).

Letters: ``M`` layers, ``N`` heads, ``T`` tokens of the answer, ``h w`` image-token grid.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from flmm.errors import InputError

Merge = Literal["mean", "max"]
"""How the attention of a phrase's tokens becomes one map."""


def merge_phrase(attention: Tensor, tokens: Sequence[int], how: Merge = "mean") -> Tensor:
    """Merges the attention of one phrase's tokens.

    Args:
        attention: (M, N, T, h, w), a trace's.
        tokens: the phrase's tokens, each in 0..T-1.
        how: "mean" or "max" over the tokens, each layer, head and image token by itself.

    Returns:
        (M*N, h, w), layer by layer, the heads of a layer together.

    Raises:
        InputError: no token, one outside the answer, or another ``how``.
    """
    length = attention.shape[2]
    if not tokens or min(tokens) < 0 or max(tokens) >= length:
        raise InputError(
            f"phrase tokens {list(tokens)} are not in 0..{length - 1}; "
            "give the indices of at least one token of the answer"
        )
    chosen = attention.index_select(2, torch.tensor(tokens, device=attention.device))
    if how == "mean":
        merged = chosen.mean(dim=2)
    elif how == "max":
        merged = chosen.amax(dim=2)
    else:
        raise InputError(f"merge is {how!r}; choose 'mean' or 'max'")
    return merged.flatten(0, 1)
