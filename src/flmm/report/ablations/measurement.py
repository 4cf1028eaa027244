"""What matters in the head, and whether anything else than attention would do."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flmm.errors import InputError
from flmm.head.model import GroundingHead
from flmm.report.ablations.map_sources import Source, Sources
from flmm.report.ablations.small_heads import (
    EPOCHS,
    LEARNING_RATE,
    PICTURES_A_STEP,
    SmallDecoders,
    Variant,
)
from flmm.report.context import Bench
from flmm.report.extraction import SeenPicture, head_masks
from flmm.report.markdown import table
from flmm.report.overlaps import PARTS, OverlapTable, Score, measure_parts, overlaps_of

_MEASURED = 100
_COMPARED = (Source.ATTENTION, Source.SIMILARITY, Source.VISION)
_SWITCHED = {
    "none (its mask decoder)": None,
    "mask": (True, False, False),
    "box": (False, True, False),
    "mask + box": (True, True, False),
    "mask + box + text": (True, True, True),
}


@dataclass(frozen=True)
class Line:
    """One way's scores."""

    group: str
    name: str
    how: str
    """"trained", "switched" or "no training"."""
    things: Score | None
    stuff: Score | None
    all: Score


@dataclass(frozen=True)
class Ablations:
    """The claim's results."""

    pictures: int
    training: int
    steps: int
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class _Ways:
    """All that is measured on each picture, in the order of the lines."""

    names: list[tuple[str, str, str]]
    """(group, name, how)."""
    heads: list[tuple[Variant, GroundingHead]]
    untrained: list[Source]


def measure(bench: Bench) -> Ablations:
    """Trains the small heads, then measures all ways on the same pictures.

    Raises:
        InputError: there is no picture to learn from.
    """
    training = len(bench.data.training)
    if not training:
        raise InputError("there is no picture to learn from; give --training 96, say")
    sources = Sources(bench)
    decoders = SmallDecoders(bench, sources)
    heads = [(variant, decoders.train(variant)) for variant in decoders.variants()]
    untrained = [one for one in _COMPARED if one in sources.all]
    names = [("maps of", one.value, "no training") for one in untrained]
    names += [("refiner's prompts", name, "switched") for name in _SWITCHED]
    names += [(variant.group, variant.name, "trained") for variant, _ in heads]
    ways = _Ways(names, heads, untrained)

    def rows(seen: SeenPicture) -> OverlapTable:
        return overlaps_of(seen, _masks(bench, sources, ways, seen))

    what = f"ablations 1 {names} {bench.fingerprint(bench.data.training)}"
    found = measure_parts(bench, what, bench.data.measured[:_MEASURED], rows)
    scores = {
        part: found.scores(chosen) if (chosen := found.rows(None, part)).any() else None
        for part in PARTS
    }
    lines = []
    for place, name in enumerate(names):
        things, stuff = (
            None if (some := scores[part]) is None else some[place] for part in ("things", "stuff")
        )
        whole = scores["all"]
        assert whole is not None
        lines.append(Line(*name, things, stuff, whole[place]))
    steps = EPOCHS * -(-training // PICTURES_A_STEP)
    return Ablations(found.pictures, training, steps, tuple(lines))


@torch.no_grad()
def _masks(bench: Bench, sources: Sources, ways: _Ways, seen: SeenPicture) -> Tensor:
    """(P, ways, H, W) bool."""
    columns = [sources.best_masks(source, seen) for source in ways.untrained]
    head = bench.grounder.head
    refiner = head.refiner
    own = (refiner.use_mask, refiner.use_box, refiner.use_text)
    for switches in _SWITCHED.values():
        refiner.use_mask, refiner.use_box, refiner.use_text = switches or own
        decoded, refined = head_masks(head, seen.features)
        columns.append(decoded if switches is None else refined)
    refiner.use_mask, refiner.use_box, refiner.use_text = own
    for variant, trained in ways.heads:
        phrases = tuple(
            replace(phrase, attention=one)
            for one, phrase in zip(
                sources.maps(variant.source, seen), seen.features.phrases, strict=True
            )
        )
        decoded, refined = head_masks(trained, replace(seen.features, phrases=phrases))
        columns.append(refined if variant.refined else decoded)
    return torch.stack(columns, 1)


def tables(results: Ablations) -> str:
    """One table, by group."""
    heading = (
        f"cIoU of all phrases of {results.pictures} pictures, captions and expressions together."
        f' "Trained" ones are small heads, each from the same {results.training} pictures in'
        f" {results.steps} steps of {PICTURES_A_STEP} pictures (AdamW, {LEARNING_RATE:g}), which is"
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
    return f"{heading}\n\n{table(titles, rows)}"
