"""Masks of the frozen LMM with its head beside those of its copies that learned ``<SEG>``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flmm.grounding.grounder import Grounder
from flmm.head.weights import fingerprint_weights
from flmm.progress import ProgressCallback
from flmm.report.context import ReportContext, key_digest
from flmm.report.data import read_sticker_data
from flmm.report.markdown import markdown_table
from flmm.report.segmentation_token.measurement import (
    MASK_TITLES,
    MaskScores,
    measure_masks,
    score_cells,
)
from flmm.stickers.draw import Drawing, draw
from flmm.stickers.scene import generate_scene
from language_model.conversation import FROZEN_MODEL
from language_model.token_copies import TokenCopy, Tuning, name_copy


@dataclass(frozen=True)
class HeadScenes:
    """The training scenes of the head's settings, drawn each time."""

    count: int

    def drawing(self, index: int) -> Drawing:
        """Draw a scene as the data source of ``flmm train`` does."""
        return draw(generate_scene(index))


def compare_masks(
    grounder: Grounder,
    copies: Sequence[TokenCopy],
    folder: Path,
    scenes: int,
    on_progress: ProgressCallback,
) -> MaskScores:
    """Measure masks of single referring expressions on held-out scenes.

    Args:
        grounder: the frozen LMM with its head.
        copies: its copies.
        folder: of the scenes, and of what a run that was stopped goes on from.
        scenes: how many.
        on_progress: called with (done, total, what).
    """
    data = read_sticker_data(folder / "scenes", scenes, 1, 1)
    context = ReportContext(grounder, data, folder, print, on_progress)
    weights = {str(index): fingerprint_weights(copy) for index, copy in enumerate(copies)}
    return measure_masks(context, copies, f"token-copies 1 {key_digest(weights)}")


def render_masks(masks: MaskScores) -> str:
    """Return a table of the masks' scores."""
    names = [f"{FROZEN_MODEL} + head", *map(name_copy, Tuning)]
    rows = [
        [name, *(cell for score in scores for cell in score_cells(score))]
        for name, scores in zip(names, masks.scores, strict=True)
    ]
    return markdown_table([f"{masks.pictures} pictures", *MASK_TITLES], rows)
