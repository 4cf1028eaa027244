"""Where grounding lives: how well each layer and head of the frozen LMM shows what words mean."""

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
    """One kind of text, and things, stuff or all of its phrases."""

    kind: str
    part: str
    everything: Score
    """Of the whole picture."""
    mean: Score
    """Of the mean of all heads' maps."""
    layers: tuple[Score, ...]
    """Of each layer's mean map, from the first on."""
    heads: tuple[tuple[Score, ...], ...]
    """Of each layer's heads."""
    best: tuple[int, int]
    """The layer and head that the calibration pictures choose, for this kind of text."""


@dataclass(frozen=True)
class WhereResults:
    """The claim's results."""

    pictures: int
    calibration: int
    layers: int
    """Of the LMM; rows of maps are as many times its views."""
    layer_weights: tuple[float, ...]
    """The head's learned softmax weights of the hidden states, one a layer."""
    panels: tuple[Panel, ...]


def measure(context: ReportContext) -> WhereResults:
    """Cuts every head's and every layer's map at its best level."""
    candidates = attention_map_function(context)
    chosen = calibrate_thresholds(context, "attention", candidates)

    def rows(extracted: ExtractedPicture) -> OverlapTable:
        picture = extracted.features.geometry.picture
        frame = comparison_size(picture)
        masks, known = (
            resize_masks(extracted.masks, frame),
            ~resize_masks(extracted.ignored_masks, frame),
        )
        # Pixels of the frame as pixels of the picture, so that large pictures weigh more in cIoU.
        scale = frame[0] * frame[1] / (picture[0] * picture[1])
        whole = torch.ones(1, *frame, dtype=torch.bool)
        both = [
            compute_phrase_overlap(
                torch.cat([
                    whole,
                    apply_thresholds(candidates(extracted, phrase), chosen[kind].thresholds),
                ]),
                masks[phrase], known[phrase], scale,
            )
            for phrase, kind in enumerate(extracted.kinds)
        ]  # fmt: skip
        shared, together = torch.stack(both, 1)
        return OverlapTable.from_picture(extracted, Overlap(shared, together))

    samples = context.data.measured
    found = measure_overlaps(context, "where 1", samples, rows)
    heads = context.grounder.adapter.heads
    panels = []
    for kind in find_text_kinds(samples):
        layers = (len(chosen[kind].thresholds) - 1) // (1 + heads)
        best = find_best_head(chosen[kind], heads)
        for part in PARTS:
            phrases = found.select_rows(kind, part)
            if phrases.any():
                everything, mean, *scores = found.compute_scores(phrases)
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
    weights = context.grounder.head.layer_weights.detach().softmax(0).tolist()
    return WhereResults(
        found.num_pictures, len(context.data.calibration),
        context.grounder.adapter.layers, tuple(weights), tuple(panels),
    )  # fmt: skip


def render_tables(results: WhereResults) -> str:
    """Layers against each other, and the best heads."""
    heading = (
        f"Each head's map (and the mean of each layer's) is scaled to a maximum of 1, enlarged and"
        f" cut at the level that suits it best, which {results.calibration} other pictures choose;"
        f" cIoU on {results.pictures} pictures. No weight is trained here but the layer weights,"
        " which the head learned for its refiner's text prompts."
    )
    blocks = [heading]
    for kind, described in TEXT_KINDS.items():
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
        blocks.append(f"**{described}**\n\n" + markdown_table([f"cIoU: {kind}", *titles], rows))
    weights = ", ".join(f"{weight:.3f}" for weight in results.layer_weights)
    blocks.append(f"Learned layer weights (softmax), from the first layer on: {weights}.")
    return "\n\n".join(blocks)
