"""Where grounding lives: how well each layer and head of the frozen LMM shows what words mean."""

from dataclasses import dataclass

import torch

from flmm.evaluate.metrics import Overlap
from flmm.report.calibration import attention_maps, calibrate, cut
from flmm.report.context import Bench
from flmm.report.data import KINDS, kinds_of
from flmm.report.extraction import SeenPicture
from flmm.report.markdown import table
from flmm.report.overlaps import PARTS, OverlapTable, Score, measure_parts, phrase_overlap
from flmm.report.thresholds import best_head, frame_of, on_frame


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
class Where:
    """The claim's results."""

    pictures: int
    calibration: int
    layers: int
    """Of the LMM; rows of maps are as many times its views."""
    layer_weights: tuple[float, ...]
    """The head's learned softmax weights of the hidden states, one a layer."""
    panels: tuple[Panel, ...]


def measure(bench: Bench) -> Where:
    """Cuts every head's and every layer's map at its best level."""
    candidates = attention_maps(bench)
    chosen = calibrate(bench, "attention", candidates)

    def rows(seen: SeenPicture) -> OverlapTable:
        picture = seen.features.geometry.picture
        frame = frame_of(picture)
        masks, known = on_frame(seen.masks, frame), ~on_frame(seen.ignored, frame)
        # Pixels of the frame as pixels of the picture, so that large pictures weigh more in cIoU.
        scale = frame[0] * frame[1] / (picture[0] * picture[1])
        whole = torch.ones(1, *frame, dtype=torch.bool)
        both = [
            phrase_overlap(
                torch.cat([whole, cut(candidates(seen, phrase), chosen[kind].level)]),
                masks[phrase], known[phrase], scale,
            )
            for phrase, kind in enumerate(seen.kinds)
        ]  # fmt: skip
        shared, together = torch.stack(both, 1)
        return OverlapTable.of(seen, Overlap(shared, together))

    samples = bench.data.measured
    found = measure_parts(bench, "where 1", samples, rows)
    heads = bench.grounder.adapter.heads
    panels = []
    for kind in kinds_of(samples):
        layers = (len(chosen[kind].level) - 1) // (1 + heads)
        best = best_head(chosen[kind], heads)
        for part in PARTS:
            phrases = found.rows(kind, part)
            if phrases.any():
                everything, mean, *scores = found.scores(phrases)
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
    weights = bench.grounder.head.layer_weights.detach().softmax(0).tolist()
    return Where(
        found.pictures, len(bench.data.calibration),
        bench.grounder.adapter.layers, tuple(weights), tuple(panels),
    )  # fmt: skip


def tables(results: Where) -> str:
    """Layers against each other, and the best heads."""
    heading = (
        f"Each head's map (and the mean of each layer's) is scaled to a maximum of 1, enlarged and"
        f" cut at the level that suits it best, which {results.calibration} other pictures choose;"
        f" cIoU on {results.pictures} pictures. No weight is trained here but the layer weights,"
        " which the head learned for its refiner's text prompts."
    )
    blocks = [heading]
    for kind, described in KINDS.items():
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
        blocks.append(f"**{described}**\n\n" + table([f"cIoU: {kind}", *titles], rows))
    weights = ", ".join(f"{weight:.3f}" for weight in results.layer_weights)
    blocks.append(f"Learned layer weights (softmax), from the first layer on: {weights}.")
    return "\n\n".join(blocks)
