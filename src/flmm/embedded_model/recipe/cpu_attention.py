"""Attention for training on CPUs: in bfloat16 where that is fast, one picture at a time.

torch's attention takes twice as long for such small heads: it hardly gains from bfloat16, and the
scores of a whole batch do not fit the CPU's cache.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from transformers import AttentionInterface, SamModel
from transformers.integrations.sdpa_attention import repeat_kv
from transformers.models.sam.modeling_sam import SamVisionAttention

from flmm.embedded_model.recipe.hardware import FAST_BFLOAT16, ON_GPU

ATTENTION_NAME = "flmm_recipe"


class _AttentionFunction(torch.autograd.Function):
    """softmax(q·kᵀ + bias)·v for (B, H, L, D); the queries are scaled already."""

    @staticmethod
    def forward(
        context: FunctionCtx, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None
    ) -> Tensor:
        result = torch.empty_like(query)
        weights = query.new_empty(*query.shape[:3], key.shape[2])
        for row in range(len(query)):
            transposed_key = key[row].transpose(-1, -2)
            if bias is None:
                scores = torch.bmm(query[row], transposed_key)
            else:
                scores = torch.baddbmm(bias[row], query[row], transposed_key)
            torch.softmax(scores, -1, out=weights[row])
            torch.bmm(weights[row], value[row], out=result[row])
        context.save_for_backward(query, key, value, weights)
        return result.to(query.dtype)

    @staticmethod
    def backward(context: FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, weights = context.saved_tensors  # type: ignore[attr-defined]
        query_grad, key_grad, value_grad = (torch.empty_like(part) for part in (query, key, value))
        for row in range(len(query)):
            weight, output_grad = weights[row], gradient[row].contiguous()
            torch.bmm(weight.transpose(-1, -2), output_grad, out=value_grad[row])
            weight_grad = torch.bmm(output_grad, value[row].transpose(-1, -2))
            score_grad = torch._softmax_backward_data(weight_grad, weight, -1, weight.dtype)
            torch.bmm(score_grad, key[row], out=query_grad[row])
            torch.bmm(score_grad.transpose(-1, -2), query[row], out=key_grad[row])
        return query_grad, key_grad, value_grad, None


def cpu_attention_forward(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **_: object,
) -> tuple[Tensor, None]:
    """Compute attention with the signature of `transformers`.

    Query is (B, H, L, D), key and value have H heads or a fraction; the mask is additive,
    (B, 1, L, L), or None.
    """
    repeats = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, repeats), repeat_kv(value, repeats)
    return _compute_attention(query * scaling, key, value, attention_mask).transpose(1, 2), None


def _compute_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    dtype = torch.bfloat16 if FAST_BFLOAT16 else query.dtype
    bias = None if mask is None else mask.to(dtype)
    parts = (part.to(dtype).contiguous() for part in (query, key, value))
    result: Tensor = _AttentionFunction.apply(*parts, bias)  # type: ignore[no-untyped-call]
    return result.to(query.dtype)


def use_cpu_attention(model: nn.Module) -> None:
    """Make a `transformers` model use this attention; its saved configuration does not change.

    Does nothing on a GPU, where torch's attention is faster.
    """
    if ON_GPU:
        return
    AttentionInterface.register(ATTENTION_NAME, cpu_attention_forward)
    model.set_attn_implementation(ATTENTION_NAME)  # type: ignore[operator]


class _SamCpuAttention(SamVisionAttention):
    """The attention of a block of SAM's vision encoder without relative positions."""

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
    """Make SAM's vision encoder use this attention, which `transformers` has no option for.

    Does nothing on a GPU, where torch's attention is faster.
    """
    if ON_GPU:
        return
    for layer in sam.vision_encoder.layers:
        layer.attn.__class__ = _SamCpuAttention
