"""Attention for training on a processor: in bfloat16 where that is fast, a picture at a time.

torch's own attention takes twice as long for such small heads: it hardly gains from bfloat16, and
the scores of a whole batch leave the processor's cache.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from transformers import AttentionInterface, SamModel
from transformers.models.sam.modeling_sam import SamVisionAttention

from flmm.embedded.recipe.hardware import FAST_BFLOAT16, ON_GPU

ATTENTION_NAME = "flmm_recipe"


class _AttentionFunction(torch.autograd.Function):
    """softmax(q·kᵀ + bias)·v for (B, H, L, D), whose scale is in the queries already."""

    @staticmethod
    def forward(
        context: FunctionCtx, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None
    ) -> Tensor:
        result = torch.empty_like(query)
        shares = query.new_empty(*query.shape[:3], key.shape[2])
        for row in range(len(query)):
            turned = key[row].transpose(-1, -2)
            if bias is None:
                scores = torch.bmm(query[row], turned)
            else:
                scores = torch.baddbmm(bias[row], query[row], turned)
            torch.softmax(scores, -1, out=shares[row])
            torch.bmm(shares[row], value[row], out=result[row])
        context.save_for_backward(query, key, value, shares)
        return result.to(query.dtype)

    @staticmethod
    def backward(context: FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, shares = context.saved_tensors  # type: ignore[attr-defined]
        of_query, of_key, of_value = (torch.empty_like(one) for one in (query, key, value))
        for row in range(len(query)):
            share, above = shares[row], gradient[row].contiguous()
            torch.bmm(share.transpose(-1, -2), above, out=of_value[row])
            of_share = torch.bmm(above, value[row].transpose(-1, -2))
            of_score = torch._softmax_backward_data(of_share, share, -1, share.dtype)
            torch.bmm(of_score, key[row], out=of_query[row])
            torch.bmm(of_score.transpose(-1, -2), query[row], out=of_key[row])
        return of_query, of_key, of_value, None


def cpu_attention_forward(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **_: object,
) -> tuple[Tensor, None]:
    """As `transformers` calls it: (B, H, L, D) each, an additive (B, 1, L, L) mask or None."""
    return _compute_attention(query * scaling, key, value, attention_mask).transpose(1, 2), None


def _compute_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    number = torch.bfloat16 if FAST_BFLOAT16 else query.dtype
    bias = None if mask is None else mask.to(number)
    parts = (one.to(number).contiguous() for one in (query, key, value))
    result: Tensor = _AttentionFunction.apply(*parts, bias)  # type: ignore[no-untyped-call]
    return result.to(query.dtype)


def use_cpu_attention(model: nn.Module) -> None:
    """Make a `transformers` model use this attention; its configuration on disk does not change.

    On a GPU torch's own is faster.
    """
    if ON_GPU:
        return
    AttentionInterface.register(ATTENTION_NAME, cpu_attention_forward)
    model.set_attn_implementation(ATTENTION_NAME)  # type: ignore[operator]


class _SamCpuAttention(SamVisionAttention):
    """That of a block of SAM's vision encoder without relative positions."""

    def forward(  # type: ignore[override]
        self, hidden_states: Tensor, output_attentions: bool = False
    ) -> tuple[Tensor, None]:
        assert not output_attentions
        assert not self.use_rel_pos
        batch, height, width, _ = hidden_states.shape
        parts = self.qkv(hidden_states).reshape(
            batch, height * width, 3, self.num_attention_heads, -1
        )
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        result = _compute_attention(query * self.scale, key, value, None)
        merged = result.transpose(1, 2).reshape(batch, height, width, -1)
        return self.proj(merged), None


def use_cpu_attention_in_sam(sam: SamModel) -> None:
    """Make SAM's vision encoder, whose attention `transformers` does not let one choose, use it.

    On a GPU torch's own is faster.
    """
    if ON_GPU:
        return
    for layer in sam.vision_encoder.layers:
        layer.attn.__class__ = _SamCpuAttention
