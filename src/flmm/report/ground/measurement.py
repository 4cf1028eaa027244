"""Frozen LMMs ground: masks without training, and what the head makes of the same attention."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from flmm.masks.kmeans import coarse_mask
from flmm.pictures.geometry import maps_on_picture
from flmm.report.calibration import attention_maps, calibrate
from flmm.report.context import Bench
from flmm.report.data import KINDS, kinds_of
from flmm.report.extraction import SeenPicture, head_masks
from flmm.report.markdown import table
from flmm.report.overlaps import PARTS, OverlapTable, Score, measure_parts, overlaps_of
from flmm.report.thresholds import attention_candidates, best_head

METHODS = ("whole picture", "mean map", "best single head", "K-means", "mask decoder", "refined")
TRAINED = METHODS[4:]


@dataclass(frozen=True)
class Row:
    """One method on one kind of text, and on things, stuff or all."""

    kind: str
    part: str
    method: str
    score: Score


@dataclass(frozen=True)
class Ground:
    """The claim's results."""

    pictures: int
    calibration: int
    best_head: dict[str, tuple[int, int]]
    """Layer and head that were chosen, by kind of text."""
    rows: tuple[Row, ...]


Masks = Callable[[SeenPicture], Tensor]
"""(P, methods, H, W) bool of a picture, in the order of ``METHODS``."""


def masks_of(bench: Bench) -> tuple[Masks, dict[str, tuple[int, int]]]:
    """How each method makes its masks, and the heads that were chosen, by kind of text."""
    heads = bench.grounder.adapter.heads
    chosen = calibrate(bench, "attention", attention_maps(bench))
    best = {kind: best_head(levels, heads) for kind, levels in chosen.items()}

    def masks(seen: SeenPicture) -> Tensor:
        geometry = seen.features.geometry
        refined_of = head_masks(bench.grounder.head, seen.features)
        found = []
        for phrase, (kind, decoded, refined) in enumerate(
            zip(seen.kinds, *refined_of, strict=True)
        ):
            attention = seen.attention[phrase]
            candidates = attention_candidates(attention, heads, geometry, geometry.picture)
            single = best[kind].number
            clusters = maps_on_picture(
                coarse_mask(attention).float()[None], geometry, geometry.picture
            )[0]
            found.append(
                torch.stack(
                    [
                        torch.ones_like(decoded),
                        candidates[0] > chosen[kind].level[0],
                        candidates[single] > chosen[kind].level[single],
                        clusters > 0.5,
                        decoded,
                        refined,
                    ]
                )
            )
        return torch.stack(found)

    return masks, {kind: (one.layer, one.head) for kind, one in best.items()}


def measure(bench: Bench) -> Ground:
    """Every method's masks against the true ones, at the pictures' own size."""
    masks, best = masks_of(bench)

    def rows(seen: SeenPicture) -> OverlapTable:
        return overlaps_of(seen, masks(seen))

    samples = bench.data.measured
    found = measure_parts(bench, "ground 1", samples, rows)
    lines: list[Row] = []
    for kind in kinds_of(samples):
        for part in PARTS:
            phrases = found.rows(kind, part)
            if phrases.any():
                lines.extend(
                    Row(kind, part, method, score)
                    for method, score in zip(METHODS, found.scores(phrases), strict=True)
                )
    return Ground(found.pictures, len(bench.data.calibration), best, tuple(lines))


def tables(results: Ground) -> str:
    """One table a kind of text."""
    blocks = [
        f"{results.pictures} pictures. Without training: the mean of all heads' maps, the best"
        " single head (both cut at a level; head and levels are chosen on"
        f" {results.calibration} other pictures), and K-means with two clusters. Trained: the"
        " head's mask decoder, and its masks refined with SAM. The LMM is the same frozen one."
    ]
    for kind, described in KINDS.items():
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
        blocks.append(f"**{described}**\n\n{table(titles, lines)}")
    return "\n\n".join(blocks)
