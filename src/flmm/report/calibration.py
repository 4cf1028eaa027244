"""Which level suits each map best, chosen on the calibration pictures and kept on disk."""

from collections.abc import Callable

from torch import Tensor

from flmm.errors import InputError
from flmm.report.context import Bench, digest_of
from flmm.report.data import kinds_of
from flmm.report.extraction import SeenPicture
from flmm.report.thresholds import (
    ChosenLevels,
    LevelChoice,
    attention_candidates,
    frame_of,
    level_overlaps,
    on_frame,
)

Candidates = Callable[[SeenPicture, int], Tensor]
"""Maps (K, a, b) in 0..1 of a picture's phrase, on ``frame_of`` the picture."""


def attention_maps(bench: Bench) -> Candidates:
    """The LMM's word-image attention: the mean of all, of each layer, and each head."""
    heads = bench.grounder.adapter.heads

    def candidates(seen: SeenPicture, phrase: int) -> Tensor:
        geometry = seen.features.geometry
        frame = frame_of(geometry.picture)
        return attention_candidates(seen.attention[phrase], heads, geometry, frame)

    return candidates


def calibrate(bench: Bench, what: str, candidates: Candidates) -> dict[str, ChosenLevels]:
    """The level that suits each candidate best, for each kind of text, on the calibration pictures.

    They are kept under the name ``what``.

    Raises:
        InputError: no picture can be read.
    """
    samples = bench.data.calibration
    folder = bench.work / f"levels-{digest_of({'what': what, **bench.key})}"
    kinds = kinds_of(samples)
    kept = {kind: ChosenLevels.load(folder / f"{kind}.safetensors") for kind in kinds}
    if kept and None not in kept.values():
        return {kind: levels for kind, levels in kept.items() if levels is not None}
    choices = {kind: LevelChoice() for kind in kinds}
    for number, seen in enumerate(bench.eye.see(samples, range(len(samples)))):
        frame = frame_of(seen.features.geometry.picture)
        masks, known = on_frame(seen.masks, frame), ~on_frame(seen.ignored, frame)
        for phrase, kind in enumerate(seen.kinds):
            overlap = level_overlaps(candidates(seen, phrase), masks[phrase], known[phrase])
            choices[kind].add(overlap)
        bench.watch(number + 1, len(samples), f"choosing levels of {what}")
    chosen = {kind: choice.choose() for kind, choice in choices.items()}
    found = {kind: levels for kind, levels in chosen.items() if levels is not None}
    if not found:
        raise InputError(
            f"none of the {len(samples)} calibration pictures can be read; check the data"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for kind, levels in found.items():
        levels.save(folder / f"{kind}.safetensors")
    return found


def cut(maps: Tensor, levels: Tensor) -> Tensor:
    """(K, a, b) maps and (K,) levels to (K, a, b) bool."""
    return maps > levels[:, None, None]
