"""How likely the LMM finds the tokens of an answer, which it said or was given.

Letters: ``T`` tokens of the answer.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from flmm.attention.trace import Trace
from flmm.lmm.base import LMMAdapter
from flmm.lmm.logits import compute_logits

_MAX_LOGITS_PER_PASS = 2**25
"""128 MiB in float32, and as much again for their logarithms."""


@torch.no_grad()
def compute_log_probabilities(
    adapter: LMMAdapter, phrases: Sequence[tuple[Trace, Sequence[int]]]
) -> list[Tensor]:
    """Return the logarithms of the probabilities that the LMM gave tokens of answers.

    Only the language modelling head runs, on states that are recorded already, for all phrases at
    once: each pass reads all of its weights.

    Args:
        adapter: the LMM that the traces are of.
        phrases: of each, the trace of its answer and the indices of its tokens in 0..T-1. The first
            token of an answer is left out: what it was predicted from, the end of the question, is
            not recorded.

    Returns:
        Of each phrase (n,) float32 on the CPU, at most 0, of the tokens above 0, in their order.
    """
    predicted = [[token for token in tokens if token > 0] for _, tokens in phrases]
    if not any(predicted):
        return [torch.zeros(0) for _ in phrases]
    traces = [trace for trace, _ in phrases]
    states = torch.cat(
        [
            trace.final_states[[token - 1 for token in tokens]]
            for trace, tokens in zip(traces, predicted, strict=True)
        ]
    )
    token_ids = torch.cat(
        [trace.token_ids[tokens] for trace, tokens in zip(traces, predicted, strict=True)]
    )
    per_pass = max(_MAX_LOGITS_PER_PASS // adapter.model.config.get_text_config().vocab_size, 1)
    log_probabilities = torch.cat(
        [
            _compute_of_tokens(adapter, *part)
            for part in zip(
                torch.split(states, per_pass), torch.split(token_ids, per_pass), strict=True
            )
        ]
    )
    return list(torch.split(log_probabilities, [len(tokens) for tokens in predicted]))


def _compute_of_tokens(adapter: LMMAdapter, states: Tensor, token_ids: Tensor) -> Tensor:
    logits = compute_logits(adapter.model, states.to(adapter.device, adapter.dtype)).float()
    return logits.log_softmax(dim=-1).gather(1, token_ids.to(logits.device)[:, None])[:, 0].cpu()
