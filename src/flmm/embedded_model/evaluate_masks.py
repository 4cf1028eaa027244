"""Metrics of masks on drawn scenes, by method.

The methods are the head's decoder and refiner, and three that need no training: thresholded mean
attention map, best single attention head, K-means.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flmm.attention.spans import make_phrase_span
from flmm.attention.tracing import trace_texts
from flmm.embedded_model.protocols import SceneTurn, TextProtocol
from flmm.evaluate.metrics import Overlap, average_recall, compute_overlap, cumulative_iou, mean_iou
from flmm.grounding.mask_options import DEFAULT_MASK_OPTIONS
from flmm.grounding.pipeline import build_pipeline
from flmm.grounding.referring import segment_together
from flmm.head.model import GroundingHead
from flmm.lmm.base import LMMAdapter
from flmm.masks.kmeans import compute_kmeans_mask
from flmm.pictures.geometry import resize_to_picture
from flmm.stickers.draw import Drawing, mention_mask
from flmm.stickers.questions import choose_absent_expression

_THRESHOLDS = tuple(round(0.1 + 0.05 * step, 2) for step in range(17))
METHODS = ("mean map", "best single head", "K-means", "decoder", "refined")


@dataclass(frozen=True)
class MaskScores:
    """One method's cIoU and mIoU on things and on stuff, in 0..1; None where there is no stuff."""

    things_cumulative: float
    things_mean: float
    stuff_cumulative: float | None
    stuff_mean: float | None
    average_recall: float
    """The average recall over all phrases, things and stuff."""


@dataclass(frozen=True)
class MaskOverlaps:
    """The overlaps of n phrases' masks with the true ones."""

    by_method: dict[str, Overlap]
    """The overlaps of each of `METHODS`."""
    is_thing: Tensor
    """(n,) bool."""

    @staticmethod
    def concatenate(parts: Sequence["MaskOverlaps"]) -> "MaskOverlaps":
        """Join overlaps in their order; there must be at least one."""
        return MaskOverlaps(
            {
                method: Overlap.concatenate([part.by_method[method] for part in parts])
                for method in METHODS
            },
            torch.cat([part.is_thing for part in parts]),
        )


@dataclass(frozen=True)
class PhrasePredictions:
    """The attention, true masks and predicted masks of one scene's P phrases."""

    attention_maps: Tensor
    """(P, M·N, h, w): attention maps of M layers and N heads, merged over a phrase's tokens."""
    true_masks: Tensor
    """(P, H, W) bool."""
    is_thing: Tensor
    """(P,) bool."""
    decoder_logits: Tensor
    """(P, H, W) logits of the mask decoder."""
    refined_logits: Tensor
    """(P, H, W) logits of the refiner."""
    resize: Callable[[Tensor], Tensor]
    """Resizes (..., h, w) maps to the picture's (..., H, W)."""


@torch.no_grad()
def predict_phrases(
    adapter: LMMAdapter, head: GroundingHead, texts: Sequence[SceneTurn]
) -> PhrasePredictions:
    """Predict the masks of all phrases of texts about one drawing, in their order."""
    drawing = texts[0].drawing
    picture = Image.fromarray(drawing.picture)
    turns = [(text.turn.question, text.turn.answer) for text in texts]
    prompts = adapter.build_prompts(picture, turns)
    maps, hidden, true_masks, is_thing = [], [], [], []
    traces = trace_texts(adapter, prompts)
    for text, prompt, trace in zip(texts, prompts, traces, strict=True):
        assert prompt.answer_offsets is not None
        for mention in text.turn.mentions:
            span = make_phrase_span(
                text.turn.answer, mention.start, mention.end, prompt.answer_offsets
            )
            maps.append(trace.picture_attention.phrase_maps(span.tokens))
            hidden.append(trace.hidden_states[:, list(span.tokens)])
            true_masks.append(torch.from_numpy(mention_mask(drawing, mention)))
            is_thing.append(bool(mention.things))
    geometry = traces[0].geometry
    output = head(torch.stack(maps), hidden, geometry, head.refiner.encode(drawing.picture))

    def resize(maps: Tensor) -> Tensor:
        return resize_to_picture(maps, geometry)

    return PhrasePredictions(
        torch.stack(maps),
        torch.stack(true_masks),
        torch.tensor(is_thing),
        resize(output.mask_logits),
        output.refined_logits,
        resize,
    )


def _scale_to_peak(maps: Tensor) -> Tensor:
    """Scale each map of (..., h, w) to a maximum of 1."""
    return maps / maps.amax((-2, -1), keepdim=True).clamp_min(1e-12)


@dataclass(frozen=True)
class Calibration:
    """The parameters of the training-free methods, chosen on scenes that are not measured."""

    mean_map_threshold: float
    attention_head: int
    attention_head_threshold: float


def calibrate(
    adapter: LMMAdapter, head: GroundingHead, drawings: Iterable[Drawing], protocol: TextProtocol
) -> Calibration:
    """Choose the mean map's threshold, the attention head and its threshold by mIoU."""
    scores: list[Tensor] = []
    for seed, drawing in enumerate(drawings):
        predictions = predict_phrases(adapter, head, protocol(drawing, seed))
        mean = _scale_to_peak(predictions.attention_maps).mean(1, keepdim=True)
        maps = torch.cat([_scale_to_peak(mean), _scale_to_peak(predictions.attention_maps)], 1)
        for phrase, truth in zip(maps, predictions.true_masks, strict=True):
            resized = predictions.resize(phrase)
            rows = [
                compute_overlap(resized > threshold, truth.expand_as(resized)).iou
                for threshold in _THRESHOLDS
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
    """Measure every method's masks of the phrases of a scene's texts."""
    predictions = predict_phrases(adapter, head, protocol(drawing, seed))
    peaked = _scale_to_peak(predictions.attention_maps)
    mean = _scale_to_peak(peaked.mean(1))
    clusters = torch.stack(
        [compute_kmeans_mask(maps) for maps in predictions.attention_maps]
    ).float()
    masks = {
        "mean map": predictions.resize(mean) > calibration.mean_map_threshold,
        "best single head": predictions.resize(peaked[:, calibration.attention_head])
        > calibration.attention_head_threshold,
        "K-means": predictions.resize(clusters) > 0.5,
        "decoder": predictions.decoder_logits > 0,
        "refined": predictions.refined_logits > 0,
    }
    return MaskOverlaps(
        {method: compute_overlap(mask, predictions.true_masks) for method, mask in masks.items()},
        predictions.is_thing,
    )


def score_absent_expression(
    adapter: LMMAdapter, head: GroundingHead, drawing: Drawing, seed: int
) -> float:
    """Return the score, in 0..1, of an expression that means nothing in the picture."""
    expression = choose_absent_expression(drawing.scene, np.random.default_rng(seed))
    pipeline = build_pipeline(adapter, head, None)
    tasks = [(drawing.picture, [expression])]
    (answer,) = segment_together(pipeline, tasks, DEFAULT_MASK_OPTIONS)
    return answer.phrases[0].score


def compute_mask_scores(overlaps: MaskOverlaps, has_stuff: bool) -> dict[str, MaskScores]:
    """Return the scores by method; those of stuff are None if not `has_stuff`."""
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
