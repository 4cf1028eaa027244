"""An LMM's logits of hidden states that are known already.

Letters: ``n`` states, ``D`` LLM width, ``V`` tokens of the vocabulary.
"""

import copy
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutput
from transformers.modeling_utils import PreTrainedModel


class _KnownOutput(BaseModelOutputWithPast):
    """The states in place of what the layers compute, and None for all else that models return."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


@torch.no_grad()
def compute_logits(model: PreTrainedModel, states: Tensor) -> Tensor:
    """Return the (n, V) logits that a model makes of states after its final norm.

    The model's own ``forward`` runs, but for its layers: some models scale their logits, cap them,
    or rule tokens out, each in a way of its own.

    Args:
        model: with a language modelling head over ``model.base_model``.
        states: (n, D).
    """
    output = _KnownOutput(last_hidden_state=states[None])
    layers = _copy_without_hooks(model.base_model)
    layers.forward = lambda *_, **__: output
    whole = _copy_without_hooks(model)
    setattr(whole, model.base_model_prefix, layers)
    # That of the class: accelerate gives a model that it spreads over devices a forward of its own.
    forward = cast(Callable[..., CausalLMOutput], type(model).forward)
    token_ids = torch.zeros(1, 1, dtype=torch.int64, device=states.device)
    logits = forward(whole, input_ids=token_ids, return_dict=True).logits
    assert logits is not None
    return logits[0]


def _copy_without_hooks(module: nn.Module) -> nn.Module:
    """Return a module of the same parts, which can be changed without changing the module."""
    copied = copy.copy(module)
    copied._modules = module._modules.copy()
    copied._forward_hooks = type(module._forward_hooks)()
    copied._forward_pre_hooks = type(module._forward_pre_hooks)()
    return copied
