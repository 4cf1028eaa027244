"""Masks from a frozen LMM's attention, without training and with a trained head, if any."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flmm.errors import InputError
from flmm.evaluate.baseline_evaluator import BaselineEvaluator, create_baseline
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
from flmm.training_free.baselines.by_name import BASELINES
from flmm.training_free.masks import TRAINING_FREE

TRAINED_METHODS = ("mask decoder", "refined")
"""A head's."""
_MAP_METHODS = ("whole picture", "mean map", "best single head", "K-means")
METHODS = (*_MAP_METHODS, *BASELINES, TRAINING_FREE, *TRAINED_METHODS)


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
"""From a picture to its phrases' masks, (P, methods, H, W) bool."""


@dataclass(frozen=True)
class MaskMethods:
    """The methods that can be measured with a grounder."""

    names: tuple[str, ...]
    """In the order of ``METHODS``."""
    predict_masks: MaskFunction
    best_head: dict[str, tuple[int, int]]
    """As in ``GroundResults``."""


@functools.lru_cache(maxsize=1)
def build_mask_methods(context: ReportContext) -> MaskMethods:
    """Return a head's methods or those that need no training, calibrated.

    Published ones prompt a SAM; they are left out without one, or where they do not suit the LMM.
    Built once a context, since some are fitted to its pictures.
    """
    num_heads = context.grounder.adapter.heads
    thresholds = calibrate_thresholds(context, "attention", attention_map_function(context))
    best = {kind: find_best_head(of_kind, num_heads) for kind, of_kind in thresholds.items()}
    evaluators = _build_evaluators(context)

    def predict_masks(extracted: ExtractedPicture) -> Tensor:
        geometry = extracted.features.geometry
        own_masks = _predict_own_masks(context, list(evaluators.values()), extracted)
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

    return MaskMethods(
        (*_MAP_METHODS, *(evaluators or TRAINED_METHODS)),
        predict_masks,
        {kind: (found.layer, found.head) for kind, found in best.items()},
    )


def _build_evaluators(context: ReportContext) -> dict[str, TrainingFreeEvaluator]:
    """Return what measures the published methods and the grounder's own; none with a head."""
    grounder, data = context.grounder, context.data
    evaluators: dict[str, TrainingFreeEvaluator] = {}
    if grounder.head is not None:
        return evaluators
    if grounder.segmenter is None:
        context.on_message(
            f"left out: {', '.join(BASELINES)} (these published methods prompt a SAM, and --sam is"
            " none)"
        )
    for name in BASELINES if grounder.segmenter is not None else ():
        try:
            baseline = create_baseline(name, grounder.adapter, data.calibration, PROTOCOL)
        except InputError as error:
            context.on_message(f"{name}: left out ({error})")
            continue
        evaluators[name] = BaselineEvaluator(grounder, baseline, data.name, PROTOCOL)
    evaluators[TRAINING_FREE] = TrainingFreeEvaluator(
        grounder.adapter, grounder.pipeline.mask_predictor, data.name, PROTOCOL
    )
    return evaluators


def _predict_own_masks(
    context: ReportContext,
    evaluators: Sequence[TrainingFreeEvaluator],
    extracted: ExtractedPicture,
) -> Sequence[Sequence[Tensor]]:
    """Return the masks of each method that is no map alone, (H, W) bool for each phrase."""
    head = context.grounder.head
    if head is not None:
        return [list(masks) for masks in predict_head_masks(head, extracted.features)]
    traced = evaluators[-1].extract([extracted.picture_exchanges])[0]
    return [
        [prediction.refined_mask for prediction in evaluator.predict(traced)]
        for evaluator in evaluators
    ]


def measure(context: ReportContext) -> GroundResults:
    """Score every method's masks, at the pictures' own size."""
    methods = build_mask_methods(context)

    def measure_picture(extracted: ExtractedPicture) -> OverlapTable:
        return compute_overlaps(extracted, methods.predict_masks(extracted))

    samples = context.data.measured
    published = [BASELINES[name] for name in methods.names if name in BASELINES]
    key = " ".join(["ground 1", *(f"{method.name} {method.version}" for method in published)])
    overlaps = measure_overlaps(context, key, samples, measure_picture)
    rows: list[MethodScore] = []
    for kind in find_text_kinds(samples):
        for part in PARTS:
            phrases = overlaps.select_rows(kind, part)
            if phrases.any():
                scores = overlaps.compute_scores(phrases)
                rows.extend(
                    MethodScore(kind, part, method, score)
                    for method, score in zip(methods.names, scores, strict=True)
                )
    return GroundResults(
        overlaps.num_pictures, len(context.data.calibration), methods.best_head, tuple(rows)
    )


def render_tables(results: GroundResults) -> str:
    """Return one table for each kind of text."""
    introduction = (
        f"{results.pictures} pictures. Without training: the mean of all heads' maps, the best"
        " single head (both cut at a threshold; head and thresholds are chosen"
        f" on {results.calibration} other pictures), and K-means with two clusters."
    )
    if set(results.methods) & set(BASELINES):
        introduction += (
            " Published methods, as implemented here from their papers, with the same SAM:"
            " attend-and-segment (arXiv 2410.08209), localization heads (2503.06287; chosen on the"
            " other pictures), DecAF (2510.19592), token activation maps (2506.23270)."
        )
    if TRAINING_FREE in results.methods:
        introduction += (
            " Training-free: how flmm makes masks without a head, from the map and, if any, SAM."
        )
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
