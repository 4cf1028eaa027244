"""Calibration of the embedded head's scores on drawn scenes that training never saw."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from flmm.data.features import FeatureExtractor
from flmm.embedded_model.phrase_sets import extract_phrases
from flmm.head.checkpoint import load_head, save_config
from flmm.head.phrase_score import ScoreCalibration
from flmm.lmm.auto import load_lmm
from flmm.progress import ProgressCallback, no_progress
from flmm.train.dataset import TrainingExample
from flmm.train.score_calibration import fit_score_calibration

SCORE_SCENES = 800
"""Each with a phrase that is there, one that is not, and nonsense."""


def calibrate_scores(
    folder: Path, scenes: int = SCORE_SCENES, on_progress: ProgressCallback = no_progress
) -> ScoreCalibration:
    """Fit the scores of a head, and write them into its configuration; its weights stay.

    Args:
        folder: the model's parts, `lmm` and `head`, as `flmm stickers build` writes them.
        scenes: their number.
        on_progress: called after each scene.

    Raises:
        InputError: a part is missing in the folder, or its configuration cannot be written.
    """
    adapter, head = load_lmm(str(folder / "lmm")), load_head(folder / "head")
    extractor = FeatureExtractor(adapter, head.config, head.refiner)

    def examples() -> Iterator[TrainingExample]:
        for done, phrases in enumerate(extract_phrases(extractor, "fit", scenes), 1):
            yield phrases.example
            on_progress(done, scenes, "calibrating scores")

    calibration = fit_score_calibration(head, examples())
    save_config(replace(head.config, score_calibration=calibration), folder / "head")
    return calibration
