"""What matters in the head, and whether anything else than attention would do."""

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
    """One way's scores."""

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
    """All that is measured on each picture, in the order of the lines."""

    labels: list[tuple[str, str, str]]
    """(group, name, how)."""
    heads: list[tuple[Variant, GroundingHead]]
    untrained_sources: list[MapSource]


def measure(context: ReportContext) -> AblationResults:
    """Trains the small heads, then measures all ways on the same pictures.

    Raises:
        InputError: there is no picture to learn from.
    """
    training = len(context.data.training)
    if not training:
        raise InputError("there is no picture to learn from; give --training 96, say")
    sources = MapSources(context)
    decoders = SmallHeadTrainer(context, sources)
    heads = [(variant, decoders.train(variant)) for variant in decoders.available_variants()]
    untrained = [one for one in _UNTRAINED_SOURCES if one in sources.available]
    names = [("maps of", one.value, "no training") for one in untrained]
    names += [("refiner's prompts", name, "switched") for name in _PROMPT_SWITCHES]
    names += [(variant.group, variant.name, "trained") for variant, _ in heads]
    ways = _Comparison(names, heads, untrained)

    def rows(extracted: ExtractedPicture) -> OverlapTable:
        return compute_overlaps(extracted, _predict_masks(context, sources, ways, extracted))

    what = f"ablations 1 {names} {context.fingerprint_samples(context.data.training)}"
    found = measure_overlaps(context, what, context.data.measured[:_MAX_PICTURES], rows)
    scores = {
        part: found.compute_scores(chosen)
        if (chosen := found.select_rows(None, part)).any()
        else None
        for part in PARTS
    }
    lines = []
    for place, name in enumerate(names):
        things, stuff = (
            None if (some := scores[part]) is None else some[place] for part in ("things", "stuff")
        )
        whole = scores["all"]
        assert whole is not None
        lines.append(AblationScore(*name, things, stuff, whole[place]))
    steps = EPOCHS * -(-training // BATCH_SIZE)
    return AblationResults(found.num_pictures, training, steps, tuple(lines))


@torch.no_grad()
def _predict_masks(
    context: ReportContext,
    map_sources: MapSources,
    comparison: _Comparison,
    extracted: ExtractedPicture,
) -> Tensor:
    """(P, ways, H, W) bool."""
    columns = [
        map_sources.predict_best_masks(source, extracted) for source in comparison.untrained_sources
    ]
    head = context.grounder.head
    refiner = head.refiner
    own = (refiner.use_mask, refiner.use_box, refiner.use_text)
    for switches in _PROMPT_SWITCHES.values():
        refiner.use_mask, refiner.use_box, refiner.use_text = switches or own
        decoded, refined = predict_head_masks(head, extracted.features)
        columns.append(decoded if switches is None else refined)
    refiner.use_mask, refiner.use_box, refiner.use_text = own
    for variant, trained in comparison.heads:
        phrases = tuple(
            replace(phrase, attention=one)
            for one, phrase in zip(
                map_sources.get_maps(variant.map_source, extracted),
                extracted.features.phrases,
                strict=True,
            )
        )
        decoded, refined = predict_head_masks(trained, replace(extracted.features, phrases=phrases))
        columns.append(refined if variant.refined else decoded)
    return torch.stack(columns, 1)


def render_tables(results: AblationResults) -> str:
    """One table, by group."""
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
        " level, both chosen on other pictures."
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
