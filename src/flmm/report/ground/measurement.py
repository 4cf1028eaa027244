"""Frozen LMMs ground: masks without training, and what the head makes of the same attention."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from flmm.masks.kmeans import compute_kmeans_mask
from flmm.pictures.geometry import resize_maps_to_picture
from flmm.report.calibration import attention_map_function, calibrate_thresholds
from flmm.report.context import ReportContext
from flmm.report.data import TEXT_KINDS, find_text_kinds
from flmm.report.extraction import ExtractedPicture, predict_head_masks
from flmm.report.markdown import markdown_table
from flmm.report.overlaps import PARTS, OverlapTable, Score, compute_overlaps, measure_overlaps
from flmm.report.thresholds import candidate_maps, find_best_head

METHODS = ("whole picture", "mean map", "best single head", "K-means", "mask decoder", "refined")
TRAINED_METHODS = METHODS[4:]


@dataclass(frozen=True)
class MethodScore:
    """One method on one kind of text, and on things, stuff or all."""

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
    """Layer and head that were chosen, by kind of text."""
    rows: tuple[MethodScore, ...]


MaskFunction = Callable[[ExtractedPicture], Tensor]
"""(P, methods, H, W) bool of a picture, in the order of ``METHODS``."""


def build_mask_function(context: ReportContext) -> tuple[MaskFunction, dict[str, tuple[int, int]]]:
    """How each method makes its masks, and the heads that were chosen, by kind of text."""
    heads = context.grounder.adapter.heads
    chosen = calibrate_thresholds(context, "attention", attention_map_function(context))
    best = {kind: find_best_head(levels, heads) for kind, levels in chosen.items()}

    def masks(extracted: ExtractedPicture) -> Tensor:
        geometry = extracted.features.geometry
        refined_of = predict_head_masks(context.grounder.head, extracted.features)
        found = []
        for phrase, (kind, decoded, refined) in enumerate(
            zip(extracted.kinds, *refined_of, strict=True)
        ):
            attention = extracted.attention[phrase]
            candidates = candidate_maps(attention, heads, geometry, geometry.picture)
            single = best[kind].map_index
            clusters = resize_maps_to_picture(
                compute_kmeans_mask(attention).float()[None], geometry, geometry.picture
            )[0]
            found.append(
                torch.stack(
                    [
                        torch.ones_like(decoded),
                        candidates[0] > chosen[kind].thresholds[0],
                        candidates[single] > chosen[kind].thresholds[single],
                        clusters > 0.5,
                        decoded,
                        refined,
                    ]
                )
            )
        return torch.stack(found)

    return masks, {kind: (one.layer, one.head) for kind, one in best.items()}


def measure(context: ReportContext) -> GroundResults:
    """Every method's masks against the true ones, at the pictures' own size."""
    masks, best = build_mask_function(context)

    def rows(extracted: ExtractedPicture) -> OverlapTable:
        return compute_overlaps(extracted, masks(extracted))

    samples = context.data.measured
    found = measure_overlaps(context, "ground 1", samples, rows)
    lines: list[MethodScore] = []
    for kind in find_text_kinds(samples):
        for part in PARTS:
            phrases = found.select_rows(kind, part)
            if phrases.any():
                lines.extend(
                    MethodScore(kind, part, method, score)
                    for method, score in zip(METHODS, found.compute_scores(phrases), strict=True)
                )
    return GroundResults(found.num_pictures, len(context.data.calibration), best, tuple(lines))


def render_tables(results: GroundResults) -> str:
    """One table a kind of text."""
    blocks = [
        f"{results.pictures} pictures. Without training: the mean of all heads' maps, the best"
        " single head (both cut at a level; head and levels are chosen on"
        f" {results.calibration} other pictures), and K-means with two clusters. Trained: the"
        " head's mask decoder, and its masks refined with SAM. The LMM is the same frozen one."
    ]
    for kind, described in TEXT_KINDS.items():
        rows = [row for row in results.rows if row.kind == kind]
        parts = [part for part in PARTS if any(row.part == part for row in rows)]
        if not rows:
            continue
        titles = [kind]
        for part in parts:
            count = next(row.score.phrases for row in rows if row.part == part)
            titles += [f"{part}: cIoU", f"{part}: mIoU ({count:,} phrases)"]
        lines = []
        for method in METHODS:
            scores = [row.score for row in rows if row.method == method]
            name = method
            if method == "best single head":
                layer, head = results.best_head[kind]
                name = f"best single head (layer {layer}, head {head})"
            lines.append(
                [name, *(str(one) for s in scores for one in (s.cumulative_iou, s.mean_iou))]
            )
        blocks.append(f"**{described}**\n\n{markdown_table(titles, lines)}")
    return "\n\n".join(blocks)
