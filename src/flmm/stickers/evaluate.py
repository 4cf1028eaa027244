"""Measures the embedded model on scenes whose seeds training never used.

Words: what greedy captions name, and how questions are answered. Masks: each phrase's, from the
decoder, refined, and without any training (K-means, mean map, best single head) beside them.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flmm.attention.recorder import trace_texts
from flmm.attention.spans import span_at
from flmm.geometry import resize_to_picture
from flmm.lmm.base import LMMAdapter
from flmm.masks.kmeans import coarse_mask
from flmm.masks.selector import select_phrases
from flmm.metrics import Overlap, cumulative_iou, mask_overlap, mean_iou
from flmm.model import GroundingHead
from flmm.stickers.draw import draw, mention_mask
from flmm.stickers.kinds import KINDS, STUFF
from flmm.stickers.language import (
    Turn,
    caption,
)
from flmm.stickers.protocols import Said, captions
from flmm.stickers.questions import ask
from flmm.stickers.scene import Scene, draw_scene
from flmm.stickers.world import EVALUATION_SEED, VALIDATION_SEED

CALIBRATION_SCENES = 60
_THRESHOLDS = tuple(round(0.1 + 0.05 * step, 2) for step in range(17))
METHODS = ("mean map", "best single head", "K-means", "decoder", "refined")

Progress = Callable[[Sequence[int], str], Iterator[int]]
"""Shows a bar over the numbers that it hands on."""

# Longest names first, so that "palm tree" is not also a "tree".
_NAMES = sorted(
    [(form, kind.name) for kind in KINDS for form in (kind.name, kind.plural)]
    + [(name, name) for name in STUFF],
    key=lambda pair: -len(pair[0]),
)
_NAMED = re.compile("|".join(rf"\b{re.escape(form)}\b" for form, _ in _NAMES))
_KIND_OF_FORM = dict(_NAMES)


@dataclass(frozen=True)
class WordScores:
    """How well the LMM talks; shares in 0..1."""

    named_things: float
    named_stuff: float
    named: float
    """Share of the things and stuff that are there which greedy captions name."""
    absent: float
    """Share of the named kinds of thing that are not there."""
    answers: dict[str, float]
    """Share of questions answered right (`is_right`), by task."""
    keyword_f1: float
    """Of the keyword selector's phrases in true captions and answers, exact in both ends."""


@dataclass(frozen=True)
class MaskScores:
    """cIoU and mIoU in 0..1 of one method on things and on stuff."""

    things_cumulative: float
    things_mean: float
    stuff_cumulative: float
    stuff_mean: float


def named_in(text: str) -> set[str]:
    """The kinds of thing and stuff that a text names."""
    return {_KIND_OF_FORM[form] for form in _NAMED.findall(text.lower())}


def held_out(count: int, first: int = EVALUATION_SEED) -> list[Scene]:
    return [draw_scene(first + index) for index in range(count)]


def questions(scene: Scene, seed: int) -> list[Turn]:
    """A few about a scene, always the same ones."""
    random = np.random.default_rng(seed)
    return [ask(scene, random) for _ in range(4)]


def is_right(turn: Turn, answer: str) -> bool:
    """Word for word what the facts say; of "is there" only yes or no ("where" asks the place)."""
    if turn.task == "is there":
        return answer.split(",")[0] == turn.answer.split(",")[0]
    return answer == turn.answer


def measure_words(
    adapter: LMMAdapter, head: GroundingHead, scenes: Sequence[Scene], progress: Progress
) -> WordScores:
    """Greedy captions and answers for every scene."""
    there = {"things": 0, "stuff": 0}
    named = {"things": 0, "stuff": 0}
    named_things = absent = 0
    right: dict[str, list[bool]] = {}
    hits = chosen = wanted = 0
    for index in progress(range(len(scenes)), "captions and questions"):
        scene = scenes[index]
        picture = Image.fromarray(draw(scene).picture)
        facts = caption(scene)
        said = named_in(adapter.generate(adapter.prepare(picture, facts.question), 96).text)
        for sort, names in (
            ("things", {kind.name for kind in scene.kinds}),
            ("stuff", {band.name for band in scene.bands}),
        ):
            there[sort] += len(names)
            named[sort] += len(names & said)
        things = said - set(STUFF)
        named_things += len(things)
        absent += len(things - {kind.name for kind in scene.kinds})
        turns = questions(scene, index)
        for turn in turns:
            answer = adapter.generate(adapter.prepare(picture, turn.question), 48).text
            right.setdefault(turn.task, []).append(is_right(turn, answer))
        for turn in (facts, turns[0]):
            found = _selected(adapter, head, picture, turn)
            truth = {(mention.start, mention.end) for mention in turn.mentions}
            hits, chosen, wanted = (
                hits + len(found & truth), chosen + len(found), wanted + len(truth)
            )  # fmt: skip
    return WordScores(
        named["things"] / there["things"],
        named["stuff"] / there["stuff"],
        sum(named.values()) / sum(there.values()),
        absent / max(named_things, 1),
        {task: float(np.mean(marks)) for task, marks in sorted(right.items())},
        2 * hits / max(chosen + wanted, 1),
    )


def _selected(
    adapter: LMMAdapter, head: GroundingHead, picture: Image.Image, turn: Turn
) -> set[tuple[int, int]]:
    prompt = adapter.prepare(picture, turn.question, turn.answer)
    assert prompt.answer_offsets is not None
    (trace,) = trace_texts(adapter, [prompt])
    logits = head.keyword_logits(trace.hidden_states)
    return set(
        select_phrases(turn.answer, prompt.answer_offsets, logits, head.config.selector_threshold)
    )


@dataclass(frozen=True)
class _Grounded:
    """One scene's phrases: merged maps, what they mean, and the head's logits at picture size."""

    maps: Tensor
    truth: Tensor
    is_thing: Tensor
    decoded: Tensor
    refined: Tensor
    enlarge: Callable[[Tensor], Tensor]


@torch.no_grad()
def _ground(adapter: LMMAdapter, head: GroundingHead, texts: Sequence[Said]) -> _Grounded:
    drawing = texts[0].drawing
    picture = Image.fromarray(drawing.picture)
    turns = [(said.turn.question, said.turn.answer) for said in texts]
    prompts = adapter.prepare_each(picture, turns)
    maps, hidden, truth, things = [], [], [], []
    traces = trace_texts(adapter, prompts)
    for said, prompt, trace in zip(texts, prompts, traces, strict=True):
        assert prompt.answer_offsets is not None
        for mention in said.turn.mentions:
            span = span_at(said.turn.answer, mention.start, mention.end, prompt.answer_offsets)
            maps.append(trace.picture.of_phrase(span.tokens))
            hidden.append(trace.hidden_states[:, list(span.tokens)])
            truth.append(torch.from_numpy(mention_mask(drawing, mention)))
            things.append(bool(mention.things))
    geometry = traces[0].geometry
    output = head(torch.stack(maps), hidden, geometry, head.refiner.encode(drawing.picture))

    def enlarge(logits: Tensor) -> Tensor:
        return resize_to_picture(logits, geometry)

    return _Grounded(
        torch.stack(maps),
        torch.stack(truth),
        torch.tensor(things),
        enlarge(output.mask_logits),
        output.refined_logits,
        enlarge,
    )


def _peaked(maps: Tensor) -> Tensor:
    """(..., h, w) scaled to a maximum of 1."""
    return maps / maps.amax((-2, -1), keepdim=True).clamp_min(1e-12)


@dataclass(frozen=True)
class Calibration:
    """What the training-free comparisons may choose, on scenes that are not measured."""

    mean_threshold: float
    head: int
    head_threshold: float


def calibrate(adapter: LMMAdapter, head: GroundingHead, scenes: int) -> Calibration:
    """The best threshold of the mean map, and the best head with its best threshold, by mIoU."""
    scores: list[Tensor] = []
    for texts in captions(held_out(scenes, VALIDATION_SEED)):
        grounded = _ground(adapter, head, texts)
        mean = _peaked(grounded.maps).mean(1, keepdim=True)
        maps = torch.cat([_peaked(mean), _peaked(grounded.maps)], 1)
        for phrase, truth in zip(maps, grounded.truth, strict=True):
            large = grounded.enlarge(phrase)
            rows = [
                mask_overlap(large > level, truth.expand_as(large)).iou for level in _THRESHOLDS
            ]
            scores.append(torch.stack(rows))
    table = torch.stack(scores).mean(0)
    best = int(table[:, 1:].amax(0).argmax())
    return Calibration(
        _THRESHOLDS[int(table[:, 0].argmax())],
        best,
        _THRESHOLDS[int(table[:, 1 + best].argmax())],
    )


def measure_masks(
    adapter: LMMAdapter,
    head: GroundingHead,
    calibration: Calibration,
    scenes: Sequence[Scene],
    protocol: Callable[[Sequence[Scene]], Iterator[list[Said]]],
    progress: Progress,
) -> dict[str, MaskScores]:
    """Scores of every method in `METHODS` over the phrases of a protocol."""
    overlaps: dict[str, list[Overlap]] = {method: [] for method in METHODS}
    things: list[Tensor] = []
    texts = protocol(scenes)
    for _ in progress(range(len(scenes)), f"masks of {protocol.__name__}"):
        grounded = _ground(adapter, head, next(texts))
        peaked = _peaked(grounded.maps)
        mean = _peaked(peaked.mean(1))
        clusters = torch.stack([coarse_mask(maps) for maps in grounded.maps]).float()
        masks = {
            "mean map": grounded.enlarge(mean) > calibration.mean_threshold,
            "best single head": grounded.enlarge(peaked[:, calibration.head])
            > calibration.head_threshold,
            "K-means": grounded.enlarge(clusters) > 0.5,
            "decoder": grounded.decoded > 0,
            "refined": grounded.refined > 0,
        }
        for method, mask in masks.items():
            overlaps[method].append(mask_overlap(mask, grounded.truth))
        things.append(grounded.is_thing)
    is_thing = torch.cat(things)
    return {method: _scores(Overlap.join(parts), is_thing) for method, parts in overlaps.items()}


def _scores(overlap: Overlap, is_thing: Tensor) -> MaskScores:
    things, stuff = overlap[is_thing], overlap[~is_thing]
    return MaskScores(
        cumulative_iou(things), mean_iou(things), cumulative_iou(stuff), mean_iou(stuff)
    )
