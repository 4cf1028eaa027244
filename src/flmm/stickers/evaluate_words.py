"""What the embedded LMM says of scenes that training never used: captions, answers, follow-ups.

Counts are kept, so that parts of the scenes can be measured side by side and put together.
"""

import re
from collections import Counter
from dataclasses import dataclass

import numpy as np
from PIL import Image

from flmm.attention.recorder import trace_texts
from flmm.lmm.base import LMMAdapter
from flmm.lmm.prompt import Message
from flmm.masks.selector import select_phrases
from flmm.model import GroundingHead
from flmm.stickers.draw import Drawing
from flmm.stickers.kinds import KINDS, STUFF
from flmm.stickers.language import Turn, caption
from flmm.stickers.questions import ask, converse
from flmm.stickers.scene import Scene

_QUESTIONS = 4
_LONGEST = 160

# Longest names first, so that "palm tree" is not also a "tree".
_NAMES = sorted(
    [(form, kind.name) for kind in KINDS for form in (kind.name, kind.plural)]
    + [(name, name) for name in STUFF],
    key=lambda pair: -len(pair[0]),
)
_NAMED = re.compile("|".join(rf"\b{re.escape(form)}\b" for form, _ in _NAMES))
_KIND_OF_FORM = dict(_NAMES)


WordCounts = Counter[str]
"""How often what happened; what is counted is known to this file alone."""


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
    all_answers: float
    """Share of all questions but follow-ups that are answered right."""
    keyword_f1: float
    """Of the keyword selector's phrases in true captions and answers, exact in both ends."""


def named_in(text: str) -> set[str]:
    """The kinds of thing and stuff that a text names."""
    return {_KIND_OF_FORM[form] for form in _NAMED.findall(text.lower())}


def is_right(turn: Turn, answer: str) -> bool:
    """Word for word what the facts say; of yes and no only that ("where" asks the place)."""
    first = turn.answer.split(",")[0]
    if first in ("Yes", "No"):
        return answer.split(",")[0] == first
    return answer == turn.answer


def questions(scene: Scene, seed: int) -> list[Turn]:
    """A few about a scene, always the same ones."""
    random = np.random.default_rng(seed)
    return [ask(scene, random) for _ in range(_QUESTIONS)]


def count_words(
    adapter: LMMAdapter, head: GroundingHead, drawing: Drawing, seed: int, *, has_stuff: bool
) -> WordCounts:
    """A greedy caption and some answers; `seed` chooses the questions.

    Where the picture has no stuff (`has_stuff`), only the caption's things are counted.
    """
    scene = drawing.scene
    picture = Image.fromarray(drawing.picture)
    facts = caption(scene)
    counts: WordCounts = Counter()
    said = named_in(adapter.generate(adapter.prepare(picture, facts.question), _LONGEST).text)
    there = {kind.name for kind in scene.kinds}
    things = said - set(STUFF)
    counts["things there"] += len(there)
    counts["things named"] += len(there & said)
    counts["kinds named"] += len(things)
    counts["kinds absent"] += len(things - there)
    if not has_stuff:
        return counts
    stuff = {band.name for band in scene.bands}
    counts["stuff there"] += len(stuff)
    counts["stuff named"] += len(stuff & said)
    turns = questions(scene, seed)
    for turn in turns:
        answer = adapter.generate(adapter.prepare(picture, turn.question), 48).text
        _mark(counts, turn, answer)
    first, second = converse(scene, np.random.default_rng((seed, 1)))
    before = adapter.generate(adapter.prepare(picture, first.question), _LONGEST).text
    history = [Message("user", first.question, (picture,)), Message("assistant", before)]
    again = adapter.prepare((), second.question, None, history)
    _mark(counts, second, adapter.generate(again, 48).text)
    for turn in (facts, turns[0]):
        found = _selected(adapter, head, picture, turn)
        truth = {(mention.start, mention.end) for mention in turn.mentions}
        counts["phrases hit"] += len(found & truth)
        counts["phrases found and wanted"] += len(found) + len(truth)
    return counts


def _mark(counts: WordCounts, turn: Turn, answer: str) -> None:
    counts[f"asked {turn.task}"] += 1
    counts[f"right {turn.task}"] += is_right(turn, answer)


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


def word_scores(counts: WordCounts) -> WordScores:
    """The shares that counts give; 0 where nothing was there to be counted."""

    def share(part: str, *wholes: str) -> float:
        return counts[part] / max(sum(counts[whole] for whole in wholes), 1)

    tasks = sorted(name.removeprefix("asked ") for name in counts if name.startswith("asked "))
    plain = [task for task in tasks if task != "follow up"]
    right = sum(counts[f"right {task}"] for task in plain)
    named = counts["things named"] + counts["stuff named"]
    return WordScores(
        share("things named", "things there"),
        share("stuff named", "stuff there"),
        named / max(counts["things there"] + counts["stuff there"], 1),
        share("kinds absent", "kinds named"),
        {task: share(f"right {task}", f"asked {task}") for task in tasks},
        right / max(sum(counts[f"asked {task}"] for task in plain), 1),
        2 * share("phrases hit", "phrases found and wanted"),
    )
