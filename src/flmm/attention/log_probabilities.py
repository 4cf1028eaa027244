"""How likely the LMM finds the tokens of an answer, which it said or was given.

Letters: ``M`` layers, ``T`` tokens of the answer, ``D`` LLM width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from flmm.attention.trace import Trace
from flmm.lmm.base import LMMAdapter
from flmm.lmm.logits import compute_logits


@torch.no_grad()
def compute_log_probabilities(adapter: LMMAdapter, trace: Trace, tokens: Sequence[int]) -> Tensor:
    """Return the logarithm of the probability that the LMM gave each of an answer's tokens.

    Only the language modelling head runs, on states that are recorded already.

    Args:
        adapter: the LMM that the trace is of.
        trace: of the answer.
        tokens: indices in 0..T-1. The first token of all is left out: what it was predicted from,
            the end of the question, is not recorded.

    Returns:
        (n,) float32 on the CPU, at most 0, of the tokens above 0, in their order.
    """
    predicted = [token for token in tokens if token > 0]
    if not predicted:
        return torch.zeros(0)
    states = trace.final_states[[token - 1 for token in predicted]]
    logits = compute_logits(adapter.model, states.to(adapter.device, adapter.dtype)).float()
    token_ids = trace.token_ids[predicted].to(logits.device)
    return logits.log_softmax(dim=-1).gather(1, token_ids[:, None])[:, 0].cpu()
