"""Rows of an attention matrix without the matrix: only the wanted queries against all keys.

Letters: ``B`` sequences, ``N`` heads, ``R`` wanted rows, ``Q`` queries, ``K`` keys, ``C`` columns.
"""

import torch
from torch import Tensor

_QUANTIZED_RANGE = 65_535
_QUANTIZED_OFFSET = 32_768


def compute_attention_rows(
    query: Tensor,
    key: Tensor,
    visible: Tensor | None,
    scaling: float,
    key_positions: Tensor,
    softcap: float | None = None,
) -> Tensor:
    """``softmax(q·kᵀ·scaling)`` over the visible keys, cut to ``columns``: (B, N, R, C) float32.

    ``query`` (B, N, R, d); ``key`` (B, N_kv, K, d), where each key head serves N / N_kv query heads
    and is not repeated; ``visible`` (B, 1 or N, R, K), bool or added to the scores; ``columns``
    (B, C); ``softcap`` squeezes the scores into ±softcap.
    In float32, because half types would round the scores that sdpa keeps exact.
    """
    batch, heads, rows, width = query.shape
    grouped = (query.float() * scaling).reshape(batch, key.shape[1], -1, width)
    scores = grouped @ key.float().transpose(-1, -2)
    scores = scores.reshape(batch, heads, rows, -1)
    if softcap is not None:
        scores = scores.div_(softcap).tanh_().mul_(softcap)
    if visible is not None and visible.dtype == torch.bool:
        scores = scores.masked_fill(~visible, -torch.inf)
    elif visible is not None:
        scores = scores + visible
    index = key_positions[:, None, None, :].expand(batch, heads, rows, -1)
    return scores.softmax(dim=-1).gather(3, index)


def quantize_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (..., C) of values in 0..1 as (..., C) int16 and each row's largest value (...).

    Half the memory of float32; no value is off by more than 8e-6 of its row's largest.
    """
    # A conversation without a picture has no column to take the largest of.
    largest = rows.amax(dim=-1) if rows.shape[-1] else rows.new_zeros(rows.shape[:-1])
    levels = rows * (_QUANTIZED_RANGE / largest.clamp_min(1e-30))[..., None]
    return levels.round_().sub_(_QUANTIZED_OFFSET).to(torch.int16), largest


def dequantize_rows(quantized: Tensor, row_max: Tensor) -> Tensor:
    """The float32 rows that ``compressed`` made smaller."""
    return quantized.float().add_(_QUANTIZED_OFFSET).mul_((row_max / _QUANTIZED_RANGE)[..., None])


def gather_rows(tensor: Tensor, positions: Tensor | None, dim: int) -> Tensor:
    """The wanted rows of (B, …, Q, width); without positions Q is 1 and that row is wanted."""
    if positions is None:
        return tensor
    index = positions.reshape(len(positions), *[1] * (dim - 1), -1, 1)
    shape = list(tensor.shape)
    shape[dim] = positions.shape[1]
    return tensor.gather(dim, index.expand(shape))


def visible_keys(
    mask: Tensor | None, positions: Tensor | None, num_queries: int, key: Tensor
) -> Tensor | None:
    """Which keys the wanted rows see, (B, 1 or N, R, K), by the mask that the model gives."""
    keys = key.shape[2]
    if mask is not None and mask.ndim == 4:
        mask = mask[..., :keys].expand(len(key), -1, num_queries, keys)
        return gather_rows(mask, positions, dim=2)
    visible = None
    if positions is not None:
        visible = torch.arange(keys, device=key.device) <= positions[:, None, :, None]
    if mask is not None:
        # Flash attention is given the padding alone.
        real = mask[:, None, None, :keys].bool()
        visible = real if visible is None else visible & real
    return visible


def apply_sliding_window(
    visible: Tensor | None, row_positions: int | Tensor, window: int, num_dropped: int, key: Tensor
) -> Tensor:
    """``visible``, without the keys that lie ``window`` or more before each row's position.

    ``last``: the position of the only row, or (B, R) positions; ``dropped``: how many keys, all of
    them earlier, are not in ``key`` any more.
    """
    places = torch.arange(key.shape[2], device=key.device) + num_dropped
    near = (
        places
        > (row_positions[:, None, :, None] if isinstance(row_positions, Tensor) else row_positions)
        - window
    )
    if visible is None:
        return near.expand(len(key), 1, -1, -1) if near.ndim == 4 else near[None, None, None]
    return visible & near
