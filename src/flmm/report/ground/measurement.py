"""Masks from a frozen LMM's attention, without training and with a trained head, if any."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flmm.evaluate.training_free_evaluator import TrainingFreeEvaluator
from flmm.masks.kmeans import compute_kmeans_mask
from flmm.pictures.geometry import resize_maps_to_picture
from flmm.report.calibration import attention_map_function, calibrate_thresholds
from flmm.report.context import ReportContext
from flmm.report.data import TEXT_KINDS, find_text_kinds
from flmm.report.extraction import PROTOCOL, ExtractedPicture, predict_head_masks
from flmm.report.markdown import markdown_table
from flmm.report.overlaps import PARTS, OverlapTable, Score, compute_overlaps, measure_overlaps
from flmm.report.thresholds import candidate_maps, find_best_head
from flmm.training_free.masks import TRAINING_FREE

TRAINED_METHODS = ("mask decoder", "refined")
"""A head's."""
METHODS = (
    "whole picture", "mean map", "best single head", "K-means", TRAINING_FREE, *TRAINED_METHODS,
)  # fmt: skip


@dataclass(frozen=True)
class MethodScore:
    """Score of one method on one kind of text, and on things, stuff or all."""

    kind: str
    part: str
    method: str
    score: Score


@dataclass(frozen=True)
class GroundResults:
    """The claim's results."""

    pictures: int
    calibration: int
    best_head: dict[str, tuple[int, int]]
    """Layer and head that the calibration pictures choose, by kind of text."""
    rows: tuple[MethodScore, ...]

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that were measured, in the order of ``METHODS``."""
        measured = {row.method for row in self.rows}
        return tuple(method for method in METHODS if method in measured)


MaskFunction = Callable[[ExtractedPicture], Tensor]
"""From a picture to its phrases' masks, (P, methods, H, W) bool, of ``find_methods``."""


def find_methods(context: ReportContext) -> tuple[str, ...]:
    """Return the methods that are measured: either a head's or the one that needs no training."""
    left_out = TRAINED_METHODS if context.grounder.head is None else (TRAINING_FREE,)
    return tuple(method for method in METHODS if method not in left_out)


def build_mask_function(context: ReportContext) -> tuple[MaskFunction, dict[str, tuple[int, int]]]:
    """Return a function that predicts every method's masks, and the best heads by kind of text."""
    num_heads = context.grounder.adapter.heads
    thresholds = calibrate_thresholds(context, "attention", attention_map_function(context))
    best = {kind: find_best_head(of_kind, num_heads) for kind, of_kind in thresholds.items()}

    def predict_masks(extracted: ExtractedPicture) -> Tensor:
        geometry = extracted.features.geometry
        own_masks = _predict_own_masks(context, extracted)
        masks = []
        for phrase, kind in enumerate(extracted.kinds):
            attention = extracted.attention[phrase]
            candidates = candidate_maps(attention, num_heads, geometry, geometry.picture)
            single = best[kind].map_index
            clusters = resize_maps_to_picture(
                compute_kmeans_mask(attention).float()[None], geometry, geometry.picture
            )[0]
            masks.append(
                torch.stack(
                    [
                        torch.ones(geometry.picture, dtype=torch.bool),
                        candidates[0] > thresholds[kind].thresholds[0],
                        candidates[single] > thresholds[kind].thresholds[single],
                        clusters > 0.5,
                        *(of_phrases[phrase] for of_phrases in own_masks),
                    ]
                )
            )
        return torch.stack(masks)

    return predict_masks, {kind: (found.layer, found.head) for kind, found in best.items()}


def _predict_own_masks(
    context: ReportContext, extracted: ExtractedPicture
) -> Sequence[Sequence[Tensor]]:
    """Return the masks of each of the grounder's own methods, (H, W) bool for each phrase."""
    grounder = context.grounder
    if grounder.head is not None:
        return [list(masks) for masks in predict_head_masks(grounder.head, extracted.features)]
    evaluator = TrainingFreeEvaluator(
        grounder.adapter, grounder.pipeline.mask_predictor, context.data.name, PROTOCOL
    )
    (traced,) = evaluator.extract([extracted.picture_exchanges])
    return [[prediction.refined_mask for prediction in evaluator.predict(traced)]]


def measure(context: ReportContext) -> GroundResults:
    """Score every method's masks, at the pictures' own size."""
    predict_masks, best = build_mask_function(context)
    methods = find_methods(context)

    def measure_picture(extracted: ExtractedPicture) -> OverlapTable:
        return compute_overlaps(extracted, predict_masks(extracted))

    samples = context.data.measured
    overlaps = measure_overlaps(context, "ground 1", samples, measure_picture)
    rows: list[MethodScore] = []
    for kind in find_text_kinds(samples):
        for part in PARTS:
            phrases = overlaps.select_rows(kind, part)
            if phrases.any():
                rows.extend(
                    MethodScore(kind, part, method, score)
                    for method, score in zip(methods, overlaps.compute_scores(phrases), strict=True)
                )
    return GroundResults(overlaps.num_pictures, len(context.data.calibration), best, tuple(rows))


def render_tables(results: GroundResults) -> str:
    """Return one table for each kind of text."""
    introduction = (
        f"{results.pictures} pictures. Without training: the mean of all heads' maps, the best"
        " single head (both cut at a threshold; head and thresholds are chosen"
        f" on {results.calibration} other pictures), and K-means with two clusters."
    )
    if TRAINING_FREE in results.methods:
        introduction += " Training-free: how flmm makes masks without a head, from the map and SAM."
    if set(results.methods) & set(TRAINED_METHODS):
        introduction += (
            " Trained: the head's mask decoder, and its masks refined with SAM. The LMM is the same"
            " frozen one."
        )
    blocks = [introduction]
    for kind, description in TEXT_KINDS.items():
        rows = [row for row in results.rows if row.kind == kind]
        parts = [part for part in PARTS if any(row.part == part for row in rows)]
        if not rows:
            continue
        titles = [kind]
        for part in parts:
            count = next(row.score.phrases for row in rows if row.part == part)
            titles += [f"{part}: cIoU", f"{part}: mIoU ({count:,} phrases)"]
        lines = []
        for method in results.methods:
            scores = [row.score for row in rows if row.method == method]
            name = method
            if method == "best single head":
                layer, head = results.best_head[kind]
                name = f"best single head (layer {layer}, head {head})"
            cells = [str(iou) for score in scores for iou in (score.cumulative_iou, score.mean_iou)]
            lines.append([name, *cells])
        blocks.append(f"**{description}**\n\n{markdown_table(titles, lines)}")
    return "\n\n".join(blocks)
