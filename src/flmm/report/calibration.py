"""The best threshold of each map, chosen on the calibration pictures and kept on disk."""

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
"""From a picture and a phrase's index to maps (K, a, b) in 0..1, of ``comparison_size``."""


def attention_map_function(context: ReportContext) -> MapFunction:
    """Return a function for the ``candidate_maps`` of the LMM's word-image attention."""
    num_heads = context.grounder.adapter.heads

    def candidates(extracted: ExtractedPicture, phrase: int) -> Tensor:
        geometry = extracted.features.geometry
        size = comparison_size(geometry.picture)
        return candidate_maps(extracted.attention[phrase], num_heads, geometry, size)

    return candidates


def calibrate_thresholds(
    context: ReportContext, cache_name: str, map_function: MapFunction
) -> dict[str, MapThresholds]:
    """Find each map's best threshold on the calibration pictures, by kind of text.

    They are kept on disk under ``cache_name``.

    Raises:
        InputError: no picture can be read.
    """
    samples = context.data.calibration
    folder = context.work_folder / f"levels-{key_digest({'what': cache_name, **context.cache_key})}"
    kinds = find_text_kinds(samples)
    kept = {kind: MapThresholds.load(folder / f"{kind}.safetensors") for kind in kinds}
    if kept and None not in kept.values():
        return {kind: thresholds for kind, thresholds in kept.items() if thresholds is not None}
    searches = {kind: ThresholdSearch() for kind in kinds}
    pictures = context.picture_extractor.extract(samples, range(len(samples)))
    for number, extracted in enumerate(pictures, 1):
        size = comparison_size(extracted.features.geometry.picture)
        masks = resize_masks(extracted.masks, size)
        valid = ~resize_masks(extracted.ignored_masks, size)
        for phrase, kind in enumerate(extracted.kinds):
            maps = map_function(extracted, phrase)
            searches[kind].add(threshold_overlaps(maps, masks[phrase], valid[phrase]))
        context.on_progress(number, len(samples), f"choosing thresholds of {cache_name}")
    best = {kind: search.best_thresholds() for kind, search in searches.items()}
    found = {kind: thresholds for kind, thresholds in best.items() if thresholds is not None}
    if not found:
        raise InputError(
            f"none of the {len(samples)} calibration pictures can be read; check the data"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for kind, thresholds in found.items():
        thresholds.save(folder / f"{kind}.safetensors")
    return found


def apply_thresholds(maps: Tensor, thresholds: Tensor) -> Tensor:
    """Return the maps' masks, (K, a, b) bool, from (K, a, b) maps and (K,) thresholds."""
    return maps > thresholds[:, None, None]
