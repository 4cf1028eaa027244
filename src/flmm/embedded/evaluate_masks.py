"""How good the masks of scenes that training never used are: decoder, refined, and no training.

Beside the head's masks stand those that need no training: K-means, mean map, best single head.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from flmm.attention.spans import make_phrase_span
from flmm.attention.tracing import trace_texts
from flmm.embedded.protocols import SceneTurn, TextProtocol, absent_protocol
from flmm.evaluate.metrics import Overlap, average_recall, compute_overlap, cumulative_iou, mean_iou
from flmm.grounding.mask_predictor import mask_score
from flmm.head.model import GroundingHead
from flmm.lmm.base import LMMAdapter
from flmm.masks.kmeans import compute_kmeans_mask
from flmm.pictures.geometry import resize_to_picture
from flmm.stickers.draw import Drawing, mention_mask

_THRESHOLDS = tuple(round(0.1 + 0.05 * step, 2) for step in range(17))
METHODS = ("mean map", "best single head", "K-means", "decoder", "refined")


@dataclass(frozen=True)
class MaskScores:
    """cIoU and mIoU in 0..1 of one method on things and on stuff (None where there is none)."""

    things_cumulative: float
    things_mean: float
    stuff_cumulative: float | None
    stuff_mean: float | None
    average_recall: float
    """Of all phrases, things and stuff."""


@dataclass(frozen=True)
class MaskOverlaps:
    """How the masks of some scenes' n phrases overlap the true ones."""

    by_method: dict[str, Overlap]
    """By method."""
    is_thing: Tensor
    """(n,) bool."""

    @staticmethod
    def concatenate(parts: Sequence["MaskOverlaps"]) -> "MaskOverlaps":
        """One after the other; at least one."""
        return MaskOverlaps(
            {
                method: Overlap.concatenate([part.by_method[method] for part in parts])
                for method in METHODS
            },
            torch.cat([part.is_thing for part in parts]),
        )


@dataclass(frozen=True)
class PhrasePredictions:
    """One scene's P phrases."""

    attention_maps: Tensor
    """(P, M·N, h, w) merged attention."""
    true_masks: Tensor
    """(P, H, W) bool."""
    is_thing: Tensor
    """(P,) bool."""
    decoder_logits: Tensor
    """(P, H, W) logits of the mask decoder."""
    refined_logits: Tensor
    """(P, H, W) logits of the refiner."""
    resize: Callable[[Tensor], Tensor]
    """(..., h, w) maps to the picture's size."""


@torch.no_grad()
def predict_phrases(
    adapter: LMMAdapter, head: GroundingHead, texts: Sequence[SceneTurn]
) -> PhrasePredictions:
    """All phrases of texts about one drawing, in their order."""
    drawing = texts[0].drawing
    picture = Image.fromarray(drawing.picture)
    turns = [(said.turn.question, said.turn.answer) for said in texts]
    prompts = adapter.build_prompts(picture, turns)
    maps, hidden, truth, things = [], [], [], []
    traces = trace_texts(adapter, prompts)
    for said, prompt, trace in zip(texts, prompts, traces, strict=True):
        assert prompt.answer_offsets is not None
        for mention in said.turn.mentions:
            span = make_phrase_span(
                said.turn.answer, mention.start, mention.end, prompt.answer_offsets
            )
            maps.append(trace.picture_attention.phrase_maps(span.tokens))
            hidden.append(trace.hidden_states[:, list(span.tokens)])
            truth.append(torch.from_numpy(mention_mask(drawing, mention)))
            things.append(bool(mention.things))
    geometry = traces[0].geometry
    output = head(torch.stack(maps), hidden, geometry, head.refiner.encode(drawing.picture))

    def enlarge(logits: Tensor) -> Tensor:
        return resize_to_picture(logits, geometry)

    return PhrasePredictions(
        torch.stack(maps),
        torch.stack(truth),
        torch.tensor(things),
        enlarge(output.mask_logits),
        output.refined_logits,
        enlarge,
    )


def _scale_to_peak(maps: Tensor) -> Tensor:
    """(..., h, w) scaled to a maximum of 1."""
    return maps / maps.amax((-2, -1), keepdim=True).clamp_min(1e-12)


@dataclass(frozen=True)
class Calibration:
    """What the training-free comparisons may choose, on scenes that are not measured."""

    mean_map_threshold: float
    attention_head: int
    attention_head_threshold: float


def calibrate(
    adapter: LMMAdapter, head: GroundingHead, drawings: Iterable[Drawing], protocol: TextProtocol
) -> Calibration:
    """The best threshold of the mean map, and the best head with its best threshold, by mIoU."""
    scores: list[Tensor] = []
    for seed, drawing in enumerate(drawings):
        grounded = predict_phrases(adapter, head, protocol(drawing, seed))
        mean = _scale_to_peak(grounded.attention_maps).mean(1, keepdim=True)
        maps = torch.cat([_scale_to_peak(mean), _scale_to_peak(grounded.attention_maps)], 1)
        for phrase, truth in zip(maps, grounded.true_masks, strict=True):
            large = grounded.resize(phrase)
            rows = [
                compute_overlap(large > level, truth.expand_as(large)).iou for level in _THRESHOLDS
            ]
            scores.append(torch.stack(rows))
    table = torch.stack(scores).mean(0)
    best = int(table[:, 1:].amax(0).argmax())
    return Calibration(
        _THRESHOLDS[int(table[:, 0].argmax())],
        best,
        _THRESHOLDS[int(table[:, 1 + best].argmax())],
    )


def measure_masks(
    adapter: LMMAdapter,
    head: GroundingHead,
    calibration: Calibration,
    drawing: Drawing,
    seed: int,
    protocol: TextProtocol,
) -> MaskOverlaps:
    """Every method's masks of a scene's phrases in a protocol."""
    grounded = predict_phrases(adapter, head, protocol(drawing, seed))
    peaked = _scale_to_peak(grounded.attention_maps)
    mean = _scale_to_peak(peaked.mean(1))
    clusters = torch.stack([compute_kmeans_mask(maps) for maps in grounded.attention_maps]).float()
    masks = {
        "mean map": grounded.resize(mean) > calibration.mean_map_threshold,
        "best single head": grounded.resize(peaked[:, calibration.attention_head])
        > calibration.attention_head_threshold,
        "K-means": grounded.resize(clusters) > 0.5,
        "decoder": grounded.decoder_logits > 0,
        "refined": grounded.refined_logits > 0,
    }
    return MaskOverlaps(
        {method: compute_overlap(mask, grounded.true_masks) for method, mask in masks.items()},
        grounded.is_thing,
    )


def score_absent_expression(
    adapter: LMMAdapter, head: GroundingHead, drawing: Drawing, seed: int
) -> float:
    """The score in 0..1 of an expression that means nothing in the picture."""
    (logits,) = predict_phrases(adapter, head, absent_protocol(drawing, seed)).refined_logits
    return mask_score(logits)


def compute_mask_scores(overlaps: MaskOverlaps, has_stuff: bool) -> dict[str, MaskScores]:
    """Scores of every method in `METHODS`, without those of stuff where there is none."""
    is_thing = overlaps.is_thing
    scores = {}
    for method, overlap in overlaps.by_method.items():
        things, stuff = overlap[is_thing], overlap[~is_thing]
        scores[method] = MaskScores(
            cumulative_iou(things),
            mean_iou(things),
            cumulative_iou(stuff) if has_stuff else None,
            mean_iou(stuff) if has_stuff else None,
            average_recall(overlap if has_stuff else things),
        )
    return scores
