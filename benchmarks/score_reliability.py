"""How far a phrase's score tells what is in a picture from what is not, and how true it is.

Scores of the embedded model on held-out sticker scenes, of phrases that are there, that are not,
and of nonsense (``flmm.embedded_model.phrase_sets``), beside the mean probability inside the mask,
which is the score of a head without calibration:

    python benchmarks/score_reliability.py --figure docs/score-reliability.png

It prints the tables of docs/scores.md and draws its figure.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from flmm.data.features import FeatureExtractor, predict_masks, stack_score_inputs
from flmm.embedded_model.evaluation_settings import DEFAULT_SETTING
from flmm.embedded_model.phrase_sets import PHRASE_SETS, extract_phrases
from flmm.evaluate.metrics import box_iou
from flmm.grounding.grounder import Grounder
from flmm.head.model import HeadOutput
from flmm.masks.mean_probability import compute_mean_probability
from flmm.masks.small_regions import remove_small_regions
from flmm.pictures.geometry import mask_boxes, resize_to_picture
from flmm.report.markdown import markdown_table
from flmm.report.style import DARK_GREY, LIGHT_GREY, PALETTE, open_figure
from flmm.stickers.dataset import EVALUATION_SEED
from flmm.train.dataset import TrainingExample
from flmm.train.score_calibration import find_right_masks

SCORES = {
    "score": "calibrated score",
    "mean": "mean probability inside the mask",
    "decoder score": "calibrated score, without SAM",
    "decoder mean": "mean probability, without SAM",
}
_FORMS = ("expression", "part of a caption")
_BINS = 10
_REGION_AREAS = (0, 5, 10, 20, 50, 100, 200)


@dataclass(frozen=True)
class ScoredPhrase:
    """One phrase with all kinds of scores."""

    phrase_set: str
    form: str
    scores: dict[str, float]
    """By the names of ``SCORES``."""
    is_right: dict[str, bool]
    """Whether the mask is right, by the same names."""


@torch.no_grad()
def score_example(grounder: Grounder, example: TrainingExample, form: str) -> list[ScoredPhrase]:
    """Score one phrase of each set about one scene."""
    head, features = grounder.head, example.features
    assert head is not None
    refined = predict_masks(head, features)
    decoded = resize_to_picture(refined.mask_logits, features.geometry)
    scores: list[dict[str, float]] = [{} for _ in features.phrases]
    is_right: list[dict[str, bool]] = [{} for _ in features.phrases]
    for prefix, output in (
        ("", refined),
        ("decoder ", HeadOutput(refined.mask_logits, decoded, False)),
    ):
        calibrated = head.score_phrases(
            *stack_score_inputs(features.phrases), output, features.geometry
        )
        right = find_right_masks(output.refined_logits, example)
        for index, logits in enumerate(output.refined_logits):
            mean = compute_mean_probability(logits)
            score = calibrated[index]
            assert score is not None
            scores[index] |= {f"{prefix}mean": mean, f"{prefix}score": score if mean else 0.0}
            is_right[index] |= dict.fromkeys((f"{prefix}mean", f"{prefix}score"), right[index])
    return [
        ScoredPhrase(phrase_set, form, scores[index], is_right[index])
        for index, phrase_set in enumerate(PHRASE_SETS)
    ]


def area_under_curve(phrases: Sequence[ScoredPhrase], name: str, negatives: Sequence[str]) -> float:
    """Return the AUROC of a score: phrases that are there against others."""
    kept = [phrase for phrase in phrases if phrase.phrase_set in ("present", *negatives)]
    return float(
        roc_auc_score(
            [phrase.phrase_set == "present" for phrase in kept],
            [phrase.scores[name] for phrase in kept],
        )
    )


def build_table(phrases: Sequence[ScoredPhrase]) -> str:
    """Return the AUROCs of all scores, and how far they are from the truth."""
    rows = []
    for name, title in SCORES.items():
        values = np.array([phrase.scores[name] for phrase in phrases])
        truth = np.array([phrase.is_right[name] for phrase in phrases])
        cells = [
            f"{area_under_curve([p for p in phrases if p.form in forms], name, negatives):.3f}"
            for forms, negatives in (
                (_FORMS, ("absent",)), (_FORMS, ("nonsense",)),
                (_FORMS, ("absent", "nonsense")), (_FORMS[:1], ("absent", "nonsense")),
                (_FORMS[1:], ("absent", "nonsense")),
            )
        ]  # fmt: skip
        errors = f"{((values - truth) ** 2).mean():.3f}", f"{calibration_error(values, truth):.3f}"
        rows.append([title, *cells, *errors])
    return markdown_table(
        ["", "absent", "nonsense", "both", "both, expressions", "both, parts of captions",
         "Brier", "ECE"],
        rows,
    )  # fmt: skip


def split_into_bins(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the index of each score's bin; the bins are equally wide."""
    bins: NDArray[np.int64] = np.minimum((values * _BINS).astype(np.int64), _BINS - 1)
    return bins


def calibration_error(values: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    """Return the expected calibration error: bins' distance of mean score and share of right."""
    bins = split_into_bins(values)
    return float(
        sum(
            (bins == index).mean() * abs(values[bins == index].mean() - truth[bins == index].mean())
            for index in np.unique(bins)
        )
    )


def build_bins_table(phrases: Sequence[ScoredPhrase]) -> str:
    """Return the reliability curve as a table."""
    values = np.array([phrase.scores["score"] for phrase in phrases])
    truth = np.array([phrase.is_right["score"] for phrase in phrases])
    bins = split_into_bins(values)
    rows = [
        [f"{index / _BINS:.1f}–{(index + 1) / _BINS:.1f}", str((bins == index).sum()),
         f"{values[bins == index].mean():.2f}", f"{truth[bins == index].mean():.2f}"]
        for index in np.unique(bins)
    ]  # fmt: skip
    return markdown_table(["score", "phrases", "mean score", "share of right masks"], rows)


@dataclass
class RegionOverlaps:
    """Overlaps of refined masks of phrases that are there, without small regions and holes."""

    min_area: int
    intersection: int = 0
    union: int = 0
    box_ious: list[float] = field(default_factory=list)

    def add(self, mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> None:
        cleaned = remove_small_regions(mask, self.min_area)
        self.intersection += int((cleaned & truth).sum())
        self.union += int((cleaned | truth).sum())
        boxes = (mask_boxes(torch.from_numpy(each)[None]) for each in (cleaned, truth))
        self.box_ious.append(box_iou(*boxes).item())

    @property
    def cells(self) -> list[str]:
        """The table's row."""
        cumulative = 100 * self.intersection / self.union
        return [str(self.min_area), f"{cumulative:.2f}", f"{100 * np.mean(self.box_ious):.2f}"]


def draw_figure(phrases: Sequence[ScoredPhrase], file: Path) -> None:
    """Draw the reliability curve, and how the scores of each set are spread."""
    with open_figure(file, 3.0) as figure:
        curve, spread = figure.subplots(1, 2)
        curve.plot([0, 1], [0, 1], color=LIGHT_GREY)
        for colour, name in zip((PALETTE[0], DARK_GREY), ("score", "mean"), strict=True):
            values = np.array([phrase.scores[name] for phrase in phrases])
            truth = np.array([phrase.is_right[name] for phrase in phrases])
            bins = split_into_bins(values)
            found = np.unique(bins)
            curve.plot(
                [values[bins == index].mean() for index in found],
                [truth[bins == index].mean() for index in found],
                marker="o", markersize=3.5, color=colour, label=SCORES[name],
            )  # fmt: skip
        curve.set(xlabel="score", ylabel="share of right masks", title="Reliability")
        curve.legend(loc="upper left", fontsize=7)
        edges = np.linspace(0, 1, _BINS + 1)
        for number, phrase_set in enumerate(PHRASE_SETS):
            values = np.array([p.scores["score"] for p in phrases if p.phrase_set == phrase_set])
            counts, _ = np.histogram(values, edges)
            spread.bar(edges[:-1] + 0.02 + 0.03 * number, counts, width=0.03, align="edge",
                       color=PALETTE[number], label=phrase_set)  # fmt: skip
        spread.set(xlabel="calibrated score", ylabel="phrases", title="What scores are given")
        spread.legend(fontsize=7)


def score_phrases_alone(grounder: Grounder, texts: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return the AUROC of texts that are one phrase alone, to ``Grounder.ground``.

    ``texts``: of each scene, one of each of ``PHRASE_SETS``.
    """
    phrases = []
    for number, of_scene in enumerate(texts):
        picture = DEFAULT_SETTING.draw(EVALUATION_SEED + number).picture
        for phrase_set, text in zip(PHRASE_SETS, of_scene, strict=True):
            sentence = f"{text[0].upper()}{text[1:]}."
            (phrase,) = grounder.ground(picture, sentence, [sentence[:-1]]).phrases
            phrases.append(ScoredPhrase(phrase_set, "alone", {"score": phrase.score}, {}))
    return {
        negatives: area_under_curve(phrases, "score", [negatives]) for negatives in PHRASE_SETS[1:]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="a head's folder; by default the embedded one")
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--alone", type=int, default=60, help="scenes of phrases without a text")
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    grounder = Grounder.from_pretrained(arguments.model, device="cpu")
    head = grounder.head
    assert head is not None
    extractor = FeatureExtractor(grounder.adapter, head.config, head.refiner)
    phrases: list[ScoredPhrase] = []
    texts = []
    regions = [RegionOverlaps(min_area) for min_area in _REGION_AREAS]
    for number, of_scene in enumerate(extract_phrases(extractor, "measure", arguments.scenes)):
        phrases += score_example(grounder, of_scene.example, _FORMS[number % 2])
        texts.append(of_scene.texts)
        with torch.no_grad():
            (mask, *_) = predict_masks(head, of_scene.example.features).refined_logits > 0
        for overlaps in regions:
            overlaps.add(mask.numpy(), of_scene.example.masks[0].numpy())
    counts = {name: sum(p.phrase_set == name for p in phrases) for name in PHRASE_SETS}
    print(f"AUROC of present against …: {counts}\n\n{build_table(phrases)}")
    print(f"\n{build_bins_table(phrases)}")
    rows = [overlaps.cells for overlaps in regions]
    print(f"\n{markdown_table(['min_mask_region_area', 'cIoU', 'box IoU'], rows)}")
    alone = score_phrases_alone(grounder, texts[: arguments.alone])
    print(f"\ntexts of one phrase alone, AUROC of present against …: {alone}")
    if arguments.figure is not None:
        draw_figure(phrases, arguments.figure)


if __name__ == "__main__":
    main()
