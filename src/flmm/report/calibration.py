"""Which level suits each map best, chosen on the calibration pictures and kept on disk."""

from collections.abc import Callable

from torch import Tensor

from flmm.errors import InputError
from flmm.report.context import ReportContext, key_digest
from flmm.report.data import find_text_kinds
from flmm.report.extraction import ExtractedPicture
from flmm.report.thresholds import (
    MapThresholds,
    ThresholdSearch,
    candidate_maps,
    comparison_size,
    resize_masks,
    threshold_overlaps,
)

MapFunction = Callable[[ExtractedPicture, int], Tensor]
"""Maps (K, a, b) in 0..1 of a picture's phrase, on ``frame_of`` the picture."""


def attention_map_function(context: ReportContext) -> MapFunction:
    """The LMM's word-image attention: the mean of all, of each layer, and each head."""
    heads = context.grounder.adapter.heads

    def candidates(extracted: ExtractedPicture, phrase: int) -> Tensor:
        geometry = extracted.features.geometry
        frame = comparison_size(geometry.picture)
        return candidate_maps(extracted.attention[phrase], heads, geometry, frame)

    return candidates


def calibrate_thresholds(
    context: ReportContext, cache_name: str, map_function: MapFunction
) -> dict[str, MapThresholds]:
    """The level that suits each candidate best, for each kind of text, on the calibration pictures.

    They are kept under the name ``what``.

    Raises:
        InputError: no picture can be read.
    """
    samples = context.data.calibration
    folder = context.work_folder / f"levels-{key_digest({'what': cache_name, **context.cache_key})}"
    kinds = find_text_kinds(samples)
    kept = {kind: MapThresholds.load(folder / f"{kind}.safetensors") for kind in kinds}
    if kept and None not in kept.values():
        return {kind: levels for kind, levels in kept.items() if levels is not None}
    choices = {kind: ThresholdSearch() for kind in kinds}
    for number, seen in enumerate(context.picture_extractor.extract(samples, range(len(samples)))):
        frame = comparison_size(seen.features.geometry.picture)
        masks, known = resize_masks(seen.masks, frame), ~resize_masks(seen.ignored_masks, frame)
        for phrase, kind in enumerate(seen.kinds):
            overlap = threshold_overlaps(map_function(seen, phrase), masks[phrase], known[phrase])
            choices[kind].add(overlap)
        context.on_progress(number + 1, len(samples), f"choosing levels of {cache_name}")
    chosen = {kind: choice.best_thresholds() for kind, choice in choices.items()}
    found = {kind: levels for kind, levels in chosen.items() if levels is not None}
    if not found:
        raise InputError(
            f"none of the {len(samples)} calibration pictures can be read; check the data"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for kind, levels in found.items():
        levels.save(folder / f"{kind}.safetensors")
    return found


def apply_thresholds(maps: Tensor, thresholds: Tensor) -> Tensor:
    """(K, a, b) maps and (K,) levels to (K, a, b) bool."""
    return maps > thresholds[:, None, None]
