"""Single rows of an attention matrix: some queries against all keys, without the whole matrix.

Letters: ``B`` sequences, ``N`` heads, ``R`` rows, ``Q`` queries, ``K`` keys, ``C`` columns.
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
    sinks: Tensor | None = None,
) -> Tensor:
    """Return ``softmax(q·kᵀ·scaling)`` over the visible keys at some of them: (B, N, R, C) float32.

    ``query`` (B, N, R, d); ``key`` (B, N_kv, K, d), where each key head serves N / N_kv query heads
    and is not repeated; ``visible`` (B, 1 or N, R, K), bool or added to the scores;
    ``key_positions`` (B, C); ``softcap`` limits the scores to ±softcap by a tanh; ``sinks`` (N,):
    the score of one more key of each head, which all rows see and no column shows.
    Computed in float32, because half types would round scores that sdpa keeps exact.
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
    if sinks is not None:
        # Behind the keys, which keep their positions.
        sink = sinks.to(scores)[None, :, None, None].expand(batch, heads, rows, 1)
        scores = torch.cat([scores, sink], dim=-1)
    index = key_positions[:, None, None, :].expand(batch, heads, rows, -1)
    return scores.softmax(dim=-1).gather(3, index)


def quantize_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize rows (..., C) of values in 0..1 to (..., C) int16 and each row's maximum (...).

    Half the memory of float32; the error is at most 8e-6 of the row's maximum.
    """
    # amax raises for C = 0, which is a conversation without a picture.
    row_max = rows.amax(dim=-1) if rows.shape[-1] else rows.new_zeros(rows.shape[:-1])
    scaled = rows * (_QUANTIZED_RANGE / row_max.clamp_min(1e-30))[..., None]
    return scaled.round_().sub_(_QUANTIZED_OFFSET).to(torch.int16), row_max


def dequantize_rows(quantized: Tensor, row_max: Tensor) -> Tensor:
    """Return the float32 rows of what ``quantize_rows`` returned."""
    return quantized.float().add_(_QUANTIZED_OFFSET).mul_((row_max / _QUANTIZED_RANGE)[..., None])


def gather_rows(tensor: Tensor, positions: Tensor | None, dim: int) -> Tensor:
    """Return the rows of (B, …, Q, width) at (B, R) positions; None keeps all, then Q is 1."""
    if positions is None:
        return tensor
    index = positions.reshape(len(positions), *[1] * (dim - 1), -1, 1)
    shape = list(tensor.shape)
    shape[dim] = positions.shape[1]
    return tensor.gather(dim, index.expand(shape))


def compute_visible_keys(
    mask: Tensor | None, positions: Tensor | None, num_queries: int, key: Tensor
) -> Tensor | None:
    """Return which keys the rows attend to by the model's mask: (B, 1 or N, R, K); None for all."""
    keys = key.shape[2]
    if mask is not None and mask.ndim == 4:
        mask = mask[..., :keys].expand(len(key), -1, num_queries, keys)
        return gather_rows(mask, positions, dim=2)
    visible = None
    if positions is not None:
        visible = torch.arange(keys, device=key.device) <= positions[:, None, :, None]
    if mask is not None:
        # Flash attention gets a (B, K) padding mask only.
        not_padded = mask[:, None, None, :keys].bool()
        visible = not_padded if visible is None else visible & not_padded
    return visible


def apply_sliding_window(
    visible: Tensor | None, row_positions: int | Tensor, window: int, num_dropped: int, key: Tensor
) -> Tensor:
    """Return ``visible`` without the keys that lie ``window`` or more before each row's position.

    ``row_positions``: the position of the only row, or (B, R) positions; ``num_dropped``: how many
    of the earliest keys are no longer in ``key``.
    """
    if isinstance(row_positions, Tensor):
        row_positions = row_positions[:, None, :, None]
    key_positions = torch.arange(key.shape[2], device=key.device) + num_dropped
    inside = key_positions > row_positions - window
    if visible is None:
        return inside.expand(len(key), 1, -1, -1) if inside.ndim == 4 else inside[None, None, None]
    return visible & inside
