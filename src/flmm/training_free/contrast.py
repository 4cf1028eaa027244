"""Contrast maps: what a phrase's words look at more than other words about the same picture do.

Letters: ``P`` phrases, ``M`` layers (times views), ``N`` heads, ``T`` tokens of a phrase, ``K`` =
M·N·T maps, ``h w`` image-token grid, ``H W`` picture size.
"""

import functools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flmm.attention.trace import PictureAttention, Trace, TracedPhrase
from flmm.pictures.geometry import cell_centres_on_picture, resample_to_grid
from flmm.types import ImageGeometry, PhraseSpan

_LOG_OFFSET = 0.04
"""Added to attention, in multiples of a uniform map's, so that the logarithm of 0 is finite."""
_REFERENCE_WEIGHT = 0.5
"""Of the reference in the log contrast; at 1 the LMM's own preferences would be over-corrected."""
_CONSENSUS_POWER = 4
"""Maps that agree with the others count more, by this power of the correlation."""
_HEAD_WEIGHT_POWER = 2
"""As ``_CONSENSUS_POWER``, for a profile's head weights."""
_MEAN_HEAD_WEIGHT_POWER = 0.5
"""The same in the heads' means: the one that maps have to agree with, and the rectified map.

At 0, the few heads of some LLMs that say where a phrase is would be outvoted by the many others.
Higher, maps would peak in things and miss the rest of large regions.
"""


@dataclass(frozen=True, eq=False)
class ContrastMaps:
    """Where P phrases are, by the attention of their words."""

    log: Tensor
    """(P, h, w) float32: weighted mean over heads and tokens of the logarithm of the attention,
    minus half of the reference's. Even for large regions; its mean is 0."""
    rectified: Tensor
    """(P, h, w) float32, not negative: weighted mean over heads of the attention that exceeds the
    reference's. High in the middle of an object only."""


def compute_contrast_maps(
    traced_phrases: Sequence[TracedPhrase], head_weights: Tensor | None = None
) -> ContrastMaps:
    """Compute the contrast maps of at least one phrase of one picture.

    Every map is divided by its sum. The reference of a phrase is the attention of its text's other
    phrases, of its other words where there is no other phrase, or ``Trace.reference`` where there
    is no other word: so attention sinks, and what every word looks at, cancel out.

    Args:
        traced_phrases: each with the trace of its own text.
        head_weights: (M·N,) not negative, not all 0, from a profile; None weighs all heads alike.
    """
    logs, rectified = [], []
    for log_maps, excess in _contrast_phrases(traced_phrases):
        merged, _ = weigh_by_consensus(log_maps, head_weights)
        logs.append(merged)
        rectified.append(_weighted_mean(excess, head_weights))
    return ContrastMaps(torch.stack(logs), torch.stack(rectified))


def measure_head_agreement(
    traced_phrases: Sequence[TracedPhrase], masks: Sequence[Tensor] | None = None
) -> Tensor:
    """Return how well each head's log contrast agrees with what it should show: (P, M·N), in -1..1.

    Args:
        traced_phrases: of one picture, each with the trace of its own text.
        masks: P true masks (H, W) bool to correlate with; None for the mean of all heads' maps.
    """
    agreements = []
    for index, (log_maps, _) in enumerate(_contrast_phrases(traced_phrases)):
        if masks is None:
            agreements.append(weigh_by_consensus(log_maps)[1])
            continue
        shown = _sample_mask(masks[index], traced_phrases[index][1].geometry).to(log_maps.device)
        inside = ~shown.isnan()
        agreements.append(correlate(log_maps.mean(dim=1)[:, inside], shown[inside]))
    return torch.stack(agreements)


def _contrast_phrases(traced_phrases: Sequence[TracedPhrase]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each phrase's (M·N, T, h, w) log contrasts and (M·N, h, w) rectified ones."""
    references = _find_references(traced_phrases)
    for (span, trace), reference in zip(traced_phrases, references, strict=True):
        maps = trace.picture_attention.token_maps(span.tokens).flatten(0, 1)
        log_maps, excess = _log(_normalise(maps)), _normalise(maps.mean(dim=1))
        if reference is not None:
            log_maps = log_maps - _REFERENCE_WEIGHT * _log(reference)[:, None]
            excess = (excess - reference).clamp(min=0)
        yield log_maps, excess


def _sample_mask(mask: Tensor, geometry: ImageGeometry) -> Tensor:
    """Return 0 or 1 at each image token's centre, (h, w); NaN outside the picture."""
    height, width = mask.shape
    x, y = cell_centres_on_picture(geometry).floor().long()
    values = mask[y.clamp(0, height - 1), x.clamp(0, width - 1)].float()
    return values.masked_fill((x < 0) | (x >= width) | (y < 0) | (y >= height), torch.nan)


def weigh_by_consensus(maps: Tensor, head_weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the mean of maps, weighted by how well each agrees with the heads' mean.

    Args:
        maps: (M·N, T, h, w).
        head_weights: (M·N,) not negative, not all 0; None weighs all heads alike.

    Returns:
        The (h, w) mean of the maps, each minus its own mean, and the (M·N,) correlations of the
        heads' maps with the mean that they have to agree with, in -1..1, averaged over the tokens.
    """
    centred = maps.flatten(2) - maps.flatten(2).mean(dim=2, keepdim=True)
    correlations = correlate(centred, _weighted_mean(centred.mean(dim=1), head_weights))
    weights = correlations.clamp(min=0) ** _CONSENSUS_POWER
    if head_weights is not None:
        powers = (head_weights / head_weights.max()) ** _HEAD_WEIGHT_POWER
        weights = weights * powers.to(weights)[:, None]
    weights = weights / weights.sum().clamp(min=1e-12)
    merged = torch.einsum("ht,hta->a", weights, centred)
    return merged.reshape(maps.shape[2:]), correlations.mean(dim=1)


def _weighted_mean(maps: Tensor, head_weights: Tensor | None) -> Tensor:
    """Return the heads' mean of (M·N, ...) maps, by a profile's weights if there are any."""
    if head_weights is None:
        return maps.mean(dim=0)
    weights = (head_weights / head_weights.max()) ** _MEAN_HEAD_WEIGHT_POWER
    mean: Tensor = torch.tensordot((weights / weights.sum()).to(maps), maps, dims=1)
    return mean


def correlate(maps: Tensor, others: Tensor) -> Tensor:
    """Return Pearson's correlation over the last axis of (..., n) maps, 0 for constant ones.

    ``others``: (..., n), broadcast to ``maps``.
    """
    maps = maps - maps.mean(dim=-1, keepdim=True)
    others = others - others.mean(dim=-1, keepdim=True)
    norms: Tensor = maps.norm(dim=-1) * others.norm(dim=-1)
    return (maps * others).sum(dim=-1) / norms.clamp(min=1e-12)


def needs_reference(span: PhraseSpan, trace: Trace) -> bool:
    """Return whether a phrase is all of its text, so that its contrast needs another one."""
    return len(set(span.tokens)) >= len(trace.token_ids)


def _find_references(traced_phrases: Sequence[TracedPhrase]) -> list[Tensor | None]:
    """Return each phrase's reference, (M·N, h, w) of sum 1 each; None where there is none."""
    spans: dict[int, list[PhraseSpan]] = defaultdict(list)
    for span, trace in traced_phrases:
        spans[id(trace)].append(span)
    sums = {id(trace): _TokenSums(trace.picture_attention) for _, trace in traced_phrases}
    return [
        _find_reference(span, trace, spans[id(trace)], sums[id(trace)])
        for span, trace in traced_phrases
    ]


class _TokenSums:
    """Sums of tokens' maps of one text, (M·N, h, w).

    The maps of all phrases together are summed once, not once a phrase: a text can be long.
    """

    def __init__(self, attention: PictureAttention) -> None:
        self._attention = attention
        self._sums: dict[frozenset[int], Tensor] = {}

    def sum_without(self, tokens: frozenset[int], left_out: frozenset[int]) -> Tensor:
        """Return the sum over ``tokens`` but for those left out."""
        if tokens not in self._sums:
            self._sums[tokens] = self._sum(tokens)
        common = tokens & left_out
        total = self._sums[tokens]
        # The difference of sums rounds to a little below 0.
        return (total - self._sum(common)).clamp(min=0) if common else total

    def _sum(self, tokens: frozenset[int]) -> Tensor:
        # One token after the other, for the memory.
        maps = (self._attention.token_maps([token])[:, :, 0] for token in sorted(tokens))
        return functools.reduce(torch.add, maps).flatten(0, 1)


def _find_reference(
    span: PhraseSpan, trace: Trace, spans: Sequence[PhraseSpan], sums: _TokenSums
) -> Tensor | None:
    own = frozenset(span.tokens)
    for tokens in (
        frozenset(token for other in spans for token in other.tokens),
        frozenset(range(len(trace.token_ids))),
    ):
        if tokens - own:
            return _normalise(sums.sum_without(tokens, own))
    if trace.reference is None:
        return None
    every_token = frozenset(range(trace.reference.rows.num_tokens))
    reference = _TokenSums(trace.reference).sum_without(every_token, frozenset())
    # The same picture's grid, unless a family lays it out by the length of the text.
    return resample_to_grid(_normalise(reference), trace.reference.geometry, trace.geometry)


def _normalise(maps: Tensor) -> Tensor:
    """Divide each (..., h, w) map by its sum."""
    return maps / maps.sum(dim=(-2, -1), keepdim=True).clamp(min=1e-12)


def _log(maps: Tensor) -> Tensor:
    cells = maps.shape[-2] * maps.shape[-1]
    return (maps * cells + _LOG_OFFSET).log()
