"""Token activation maps (Li et al., ICCV 2025, arXiv 2506.23270, section 3).

The method needs the last hidden states only, so it also works where attention cannot be recorded.

Letters: ``P`` phrases, ``T`` tokens of the text, ``E`` tokens of the question and of the text,
``L`` tokens of the whole sequence, ``C`` = h·w image tokens, ``D`` LLM width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from flmm.lmm.base import LMMAdapter
from flmm.training_free.baselines.base import MaximumPointBaseline, average_over_phrases
from flmm.training_free.traced_text import TracedText


class TokenActivationMaps(MaximumPointBaseline):
    """Each token's logit at the image tokens, minus the part that earlier tokens explain.

    The paper draws maps and makes no masks; the largest mask at the maximum is taken here, as in
    attend-and-segment. Its last step, a filter against noise for drawing, is left out.
    """

    name = "token-activation-maps"
    needs_image_tokens_in_sequence = True

    @torch.no_grad()
    def compute_maps(self, adapter: LMMAdapter, texts: Sequence[TracedText]) -> list[Tensor]:
        """See ``Baseline.compute_maps``; one forward pass a text.

        Raises:
            InputError: the LMM has no image tokens in its sequence.
        """
        self.check_suits(adapter)
        return [_compute_text_maps(adapter, text) for text in texts]


def _compute_text_maps(adapter: LMMAdapter, text: TracedText) -> Tensor:
    inputs = adapter.collate([text.prompt]).model_inputs
    states = adapter.model.base_model(**inputs, use_cache=False).last_hidden_state[0]
    prompt = text.prompt
    question_end = prompt.question_start + len(prompt.question_offsets)
    positions = torch.arange(prompt.question_start, question_end)
    if prompt.answer_offsets is not None:
        positions = torch.cat([positions, torch.arange(text.start, text.end)])
    token_ids = prompt.inputs["input_ids"][0, positions]
    # (L, E): the logits of the question's and the text's tokens at all positions.
    output_embeddings = adapter.model.get_output_embeddings()  # type: ignore[no-untyped-call]
    logits = _compute_logits(output_embeddings, states, token_ids).cpu()
    activations = logits[text.view.token_positions.flatten()].relu().T
    relevance = logits[positions].relu().T
    token_maps = remove_explained_part(activations, relevance, token_ids)[
        -(text.end - text.start) :
    ]
    return average_over_phrases(token_maps.reshape(-1, *text.geometry.grid), text.spans)


def _compute_logits(head: nn.Module, states: Tensor, token_ids: Tensor) -> Tensor:
    """Return the (L, E) float32 logits of some tokens from (L, D) states."""
    # The logits of the whole vocabulary would need a hundred times the memory.
    assert isinstance(head, nn.Linear)
    weight = head.weight[token_ids.to(head.weight.device)]
    bias = None if head.bias is None else head.bias[token_ids.to(head.bias.device)]
    return functional.linear(states.to(weight.device), weight, bias).float()


def remove_explained_part(activations: Tensor, relevance: Tensor, token_ids: Tensor) -> Tensor:
    """Return each token's activations without the part that earlier tokens explain.

    Earlier tokens' maps are averaged with their relevance as weights; the average, scaled to
    explain as much as possible (least squares), is subtracted, and negative values become 0
    ("estimated causal inference", section 3.2). Earlier mentions of the same token do not count.

    Args:
        activations: (E, C), not negative: each token's logit at the image tokens.
        relevance: (E, E), not negative: in row i, token i's logit at each token's position.
        token_ids: (E,).

    Returns:
        (E, C), not negative.
    """
    earlier = torch.ones_like(relevance, dtype=torch.bool).tril(-1)
    weights = relevance * (earlier & (token_ids[:, None] != token_ids))
    tiny = torch.finfo(activations.dtype).tiny
    interference = weights @ activations / weights.sum(dim=1, keepdim=True).clamp_min(tiny)
    norms = interference.square().sum(dim=1, keepdim=True).clamp_min(tiny)
    scale = (interference * activations).sum(dim=1, keepdim=True) / norms
    return (activations - scale * interference).relu()
