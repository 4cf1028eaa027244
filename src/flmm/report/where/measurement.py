"""Scores of masks from each layer and head of the frozen LMM's attention."""

from dataclasses import dataclass

import torch

from flmm.evaluate.metrics import Overlap
from flmm.report.calibration import apply_thresholds, attention_map_function, calibrate_thresholds
from flmm.report.context import ReportContext
from flmm.report.data import TEXT_KINDS, find_text_kinds
from flmm.report.extraction import ExtractedPicture
from flmm.report.markdown import markdown_table
from flmm.report.overlaps import (
    PARTS,
    OverlapTable,
    Score,
    compute_phrase_overlap,
    measure_overlaps,
)
from flmm.report.thresholds import comparison_size, find_best_head, resize_masks


@dataclass(frozen=True)
class Panel:
    """Scores on one kind of text, for things, stuff or all of its phrases."""

    kind: str
    part: str
    everything: Score
    """Of a mask of the whole picture."""
    mean: Score
    """Of the mean of all heads' maps."""
    layers: tuple[Score, ...]
    """Of each layer's mean map, from the first layer on."""
    heads: tuple[tuple[Score, ...], ...]
    """Of each head's map, by layer."""
    best: tuple[int, int]
    """Layer and head that the calibration pictures choose for this kind of text."""


@dataclass(frozen=True)
class WhereResults:
    """The claim's results."""

    pictures: int
    calibration: int
    layers: int
    """Of the LMM; each panel has this many rows for each of its views."""
    layer_weights: tuple[float, ...]
    """The head's learned softmax weights of the hidden states, one a layer."""
    panels: tuple[Panel, ...]


def measure(context: ReportContext) -> WhereResults:
    """Score every head's and every layer's map at its best threshold."""
    candidates = attention_map_function(context)
    thresholds = calibrate_thresholds(context, "attention", candidates)

    def measure_picture(extracted: ExtractedPicture) -> OverlapTable:
        picture = extracted.features.geometry.picture
        size = comparison_size(picture)
        masks = resize_masks(extracted.masks, size)
        valid = ~resize_masks(extracted.ignored_masks, size)
        # Count in pixels of the picture, so that large pictures weigh more in cIoU.
        scale = size[0] * size[1] / (picture[0] * picture[1])
        whole = torch.ones(1, *size, dtype=torch.bool)
        overlaps = [
            compute_phrase_overlap(
                torch.cat([
                    whole,
                    apply_thresholds(candidates(extracted, phrase), thresholds[kind].thresholds),
                ]),
                masks[phrase], valid[phrase], scale,
            )
            for phrase, kind in enumerate(extracted.kinds)
        ]  # fmt: skip
        intersections, unions = torch.stack(overlaps, 1)
        return OverlapTable.from_picture(extracted, Overlap(intersections, unions))

    samples = context.data.measured
    table = measure_overlaps(context, "where 1", samples, measure_picture)
    heads = context.grounder.adapter.heads
    panels = []
    for kind in find_text_kinds(samples):
        layers = (len(thresholds[kind].thresholds) - 1) // (1 + heads)
        best = find_best_head(thresholds[kind], heads)
        for part in PARTS:
            phrases = table.select_rows(kind, part)
            if phrases.any():
                everything, mean, *scores = table.compute_scores(phrases)
                single = scores[layers:]
                panels.append(
                    Panel(
                        kind, part, everything, mean, tuple(scores[:layers]),
                        tuple(
                            tuple(single[layer * heads : (layer + 1) * heads])
                            for layer in range(layers)
                        ),
                        (best.layer, best.head),
                    )
                )  # fmt: skip
    weights = context.require_head().layer_weights.detach().softmax(0).tolist()
    return WhereResults(
        table.num_pictures, len(context.data.calibration),
        context.grounder.adapter.layers, tuple(weights), tuple(panels),
    )  # fmt: skip


def render_tables(results: WhereResults) -> str:
    """Return tables of all layers and the best heads."""
    heading = (
        f"Each head's map (and the mean of each layer's) is scaled to a maximum of 1, enlarged and"
        f" cut at the threshold that suits it best, which {results.calibration} other pictures"
        f" choose; cIoU on {results.pictures} pictures. No weight is trained here but the layer"
        " weights, which the head learned for its refiner's text prompts."
    )
    blocks = [heading]
    for kind, description in TEXT_KINDS.items():
        panels = [panel for panel in results.panels if panel.kind == kind]
        if not panels:
            continue
        rows = [["whole picture", *(str(panel.everything.cumulative_iou) for panel in panels)]]
        for layer in range(len(panels[0].layers)):
            name = f"layer {layer}, mean of its heads"
            rows.append([name, *(str(panel.layers[layer].cumulative_iou) for panel in panels)])
        rows.append(["mean of all", *(str(panel.mean.cumulative_iou) for panel in panels)])
        layer, head = panels[0].best
        rows.append(
            [f"best head: layer {layer}, head {head}",
             *(str(panel.heads[layer][head].cumulative_iou) for panel in panels)]
        )  # fmt: skip
        titles = [f"{panel.part}, {panel.mean.phrases:,} phrases" for panel in panels]
        blocks.append(f"**{description}**\n\n" + markdown_table([f"cIoU: {kind}", *titles], rows))
    weights = ", ".join(f"{weight:.3f}" for weight in results.layer_weights)
    blocks.append(f"Learned layer weights (softmax), from the first layer on: {weights}.")
    return "\n\n".join(blocks)
