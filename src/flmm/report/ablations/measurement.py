"""Scores of variants of the head, and of other maps than attention."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flmm.errors import InputError
from flmm.head.model import GroundingHead
from flmm.report.ablations.map_sources import MapSource, MapSources
from flmm.report.ablations.small_heads import (
    BATCH_SIZE,
    EPOCHS,
    LEARNING_RATE,
    SmallHeadTrainer,
    Variant,
)
from flmm.report.context import ReportContext
from flmm.report.extraction import ExtractedPicture, predict_head_masks
from flmm.report.markdown import markdown_table
from flmm.report.overlaps import PARTS, OverlapTable, Score, compute_overlaps, measure_overlaps

_MAX_PICTURES = 100
_UNTRAINED_SOURCES = (MapSource.ATTENTION, MapSource.SIMILARITY, MapSource.VISION_TOWER)
_PROMPT_SWITCHES = {
    "none (its mask decoder)": None,
    "mask": (True, False, False),
    "box": (False, True, False),
    "mask + box": (True, True, False),
    "mask + box + text": (True, True, True),
}


@dataclass(frozen=True)
class AblationScore:
    """Scores of one variant."""

    group: str
    name: str
    how: str
    """"trained", "switched" or "no training"."""
    things: Score | None
    stuff: Score | None
    all: Score


@dataclass(frozen=True)
class AblationResults:
    """The claim's results."""

    pictures: int
    training: int
    steps: int
    lines: tuple[AblationScore, ...]


@dataclass(frozen=True)
class _Comparison:
    """What is measured on each picture, in the order of the result's lines."""

    labels: list[tuple[str, str, str]]
    """(group, name, how)."""
    heads: list[tuple[Variant, GroundingHead]]
    untrained_sources: list[MapSource]


def measure(context: ReportContext) -> AblationResults:
    """Train the small heads, then measure all variants on the same pictures.

    Raises:
        InputError: there is no picture to train on.
    """
    training = len(context.data.training)
    if not training:
        raise InputError("there is no picture to learn from; give --training 96, say")
    sources = MapSources(context)
    trainer = SmallHeadTrainer(context, sources)
    heads = [(variant, trainer.train(variant)) for variant in trainer.available_variants()]
    untrained = [source for source in _UNTRAINED_SOURCES if source in sources.available]
    labels = [("maps of", source.value, "no training") for source in untrained]
    labels += [("refiner's prompts", name, "switched") for name in _PROMPT_SWITCHES]
    labels += [(variant.group, variant.name, "trained") for variant, _ in heads]
    comparison = _Comparison(labels, heads, untrained)

    def measure_picture(extracted: ExtractedPicture) -> OverlapTable:
        return compute_overlaps(extracted, _predict_masks(context, sources, comparison, extracted))

    cache_name = f"ablations 1 {labels} {context.fingerprint_samples(context.data.training)}"
    samples = context.data.measured[:_MAX_PICTURES]
    overlaps = measure_overlaps(context, cache_name, samples, measure_picture)
    scores = {
        part: overlaps.compute_scores(rows)
        if (rows := overlaps.select_rows(None, part)).any()
        else None
        for part in PARTS
    }
    lines = []
    for index, label in enumerate(labels):
        things, stuff = (
            None if (of_part := scores[part]) is None else of_part[index]
            for part in ("things", "stuff")
        )
        all_scores = scores["all"]
        assert all_scores is not None
        lines.append(AblationScore(*label, things, stuff, all_scores[index]))
    steps = EPOCHS * -(-training // BATCH_SIZE)
    return AblationResults(overlaps.num_pictures, training, steps, tuple(lines))


@torch.no_grad()
def _predict_masks(
    context: ReportContext,
    map_sources: MapSources,
    comparison: _Comparison,
    extracted: ExtractedPicture,
) -> Tensor:
    """Predict every variant's masks, (P, variants, H, W) bool."""
    columns = [
        map_sources.predict_best_masks(source, extracted) for source in comparison.untrained_sources
    ]
    head = context.require_head()
    refiner = head.refiner
    trained_switches = (refiner.use_mask, refiner.use_box, refiner.use_text)
    for switches in _PROMPT_SWITCHES.values():
        refiner.use_mask, refiner.use_box, refiner.use_text = switches or trained_switches
        decoded, refined = predict_head_masks(head, extracted.features)
        columns.append(decoded if switches is None else refined)
    refiner.use_mask, refiner.use_box, refiner.use_text = trained_switches
    for variant, small_head in comparison.heads:
        phrases = tuple(
            replace(phrase, attention=maps)
            for maps, phrase in zip(
                map_sources.get_maps(variant.map_source, extracted),
                extracted.features.phrases,
                strict=True,
            )
        )
        features = replace(extracted.features, phrases=phrases)
        decoded, refined = predict_head_masks(small_head, features)
        columns.append(refined if variant.refined else decoded)
    return torch.stack(columns, 1)


def render_tables(results: AblationResults) -> str:
    """Return one table of all variants."""
    heading = (
        f"cIoU of all phrases of {results.pictures} pictures, captions and expressions together."
        f' "Trained" ones are small heads, each from the same {results.training} pictures in'
        f" {results.steps} steps of {BATCH_SIZE} pictures (AdamW, {LEARNING_RATE:g}), which is"
        " little: the figures compare ways, they are not the best that the model can do. Of them,"
        " those on the refiner's prompts are refined masks; all others are the mask decoder's,"
        " trained without a refiner, and differ from the baseline in one thing. The baseline merges"
        " by mean, divides maps by their sum, enlarges them to 64 and sees all of them."
        ' "Switched" is the model\'s own head, which learned with all three prompts, given fewer.'
        " The vision tower's attention knows no words: it is that of the one patch whose hidden"
        ' state is most like the phrase\'s. "No training" cuts the best single map at its best'
        " threshold, both chosen on other pictures."
    )
    rows = [
        [
            line.group, line.name, line.how,
            *("–" if score is None else str(score.cumulative_iou)
              for score in (line.things, line.stuff)),
            str(line.all.cumulative_iou), str(line.all.mean_iou),
        ]
        for line in results.lines
    ]  # fmt: skip
    count = results.lines[0].all.phrases
    titles = ["", "", "how", "things: cIoU", "stuff: cIoU", "all: cIoU", f"all: mIoU ({count:,})"]
    return f"{heading}\n\n{markdown_table(titles, rows)}"
