"""What the embedded LMM says of scenes that training never used: captions, answers, follow-ups.

Counts are kept, so that parts of the scenes can be measured side by side and put together.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from flmm.attention.tracing import trace_texts
from flmm.evaluate.metrics import SpanCounts, count_spans
from flmm.head.model import GroundingHead
from flmm.lmm.base import LMMAdapter
from flmm.lmm.generation import Generation
from flmm.lmm.prompt import Message
from flmm.masks.selector import select_phrases
from flmm.stickers.draw import Drawing
from flmm.stickers.kinds import KINDS, STUFF
from flmm.stickers.language import Turn, caption_turn
from flmm.stickers.questions import ask_random_question, generate_conversation

_QUESTIONS = 4
_CAPTION_TOKENS, _ANSWER_TOKENS = 160, 48

# Longest names first, so that "palm tree" is not also a "tree".
_NAME_FORMS = sorted(
    [(form, kind.name) for kind in KINDS for form in (kind.name, kind.plural)]
    + [(name, name) for name in STUFF],
    key=lambda pair: -len(pair[0]),
)
_NAME_PATTERN = re.compile("|".join(rf"\b{re.escape(form)}\b" for form, _ in _NAME_FORMS))
_NAME_BY_FORM = dict(_NAME_FORMS)


WordCounts = Counter[str]
"""How often what happened; what is counted is known to this file alone."""


@dataclass(frozen=True)
class WordScores:
    """How well the LMM talks; shares in 0..1, None for what was not asked."""

    named_things: float
    named_stuff: float | None
    named: float
    """Share of the things and stuff that are there which greedy captions name."""
    absent: float | None
    """Share of the named kinds of thing that are not there."""
    answers: dict[str, float]
    """Share of questions answered right (`is_right`), by task."""
    all_answers: float | None
    """Share of all questions but follow-ups that are answered right."""
    keyword_f1: float | None
    """Of the keyword selector's phrases in true captions and answers, exact in both ends."""


def find_names(text: str) -> set[str]:
    """The kinds of thing and stuff that a text names."""
    return {_NAME_BY_FORM[form] for form in _NAME_PATTERN.findall(text.lower())}


def is_correct(turn: Turn, answer: str) -> bool:
    """Word for word what the facts say; of yes and no only that ("where" asks the place)."""
    first = turn.answer.split(",")[0]
    if first in ("Yes", "No"):
        return answer.split(",")[0] == first
    return answer == turn.answer


def generate_answers(
    adapter: LMMAdapter, drawing: Drawing, seed: int
) -> Iterator[tuple[Turn, Generation]]:
    """What is true, and what the LMM says instead (greedy): a caption, answers, a follow-up.

    Before the follow-up the right first answer is put in the LMM's mouth, as VisDial does (Das et
    al. 2017): what "it" means would else depend on the LMM's own.

    Args:
        adapter: of the LMM.
        drawing: what it sees.
        seed: chooses the questions.
    """
    scene = drawing.scene
    picture = Image.fromarray(drawing.picture)

    def ask_about(turn: Turn, most: int) -> tuple[Turn, Generation]:
        return turn, adapter.generate(adapter.build_prompt(picture, turn.question), most)

    yield ask_about(caption_turn(scene), _CAPTION_TOKENS)
    random = np.random.default_rng(seed)
    for _ in range(_QUESTIONS):
        yield ask_about(ask_random_question(scene, random), _ANSWER_TOKENS)
    first, second = generate_conversation(scene, random)
    history = [Message("user", first.question, (picture,)), Message("assistant", first.answer)]
    prompt = adapter.build_prompt((), second.question, history=history)
    yield second, adapter.generate(prompt, _ANSWER_TOKENS)


def count_words(
    adapter: LMMAdapter, head: GroundingHead, drawing: Drawing, seed: int, *, has_stuff: bool
) -> WordCounts:
    """A caption and some answers; `seed` chooses the questions.

    Where a photograph is in the place of stuff (not `has_stuff`), what else there is to see is
    unknown: only the things that the caption names are counted.
    """
    scene = drawing.scene
    counts: WordCounts = Counter()
    spoken = generate_answers(adapter, drawing, seed)
    facts, caption_said = next(spoken)
    said = find_names(caption_said.text)
    there = {kind.name for kind in scene.kinds}
    counts["things there"] += len(there)
    counts["things named"] += len(there & said)
    if not has_stuff:
        return counts
    things = said - set(STUFF)
    counts["kinds named"] += len(things)
    counts["kinds absent"] += len(things - there)
    stuff = {band.name for band in scene.bands}
    counts["stuff there"] += len(stuff)
    counts["stuff named"] += len(stuff & said)
    turns = [facts]
    for turn, answer in spoken:
        counts[f"asked {turn.task}"] += 1
        counts[f"right {turn.task}"] += is_correct(turn, answer.text)
        turns.append(turn)
    for turn in turns[:2]:
        found = _select_spans(adapter, head, Image.fromarray(drawing.picture), turn)
        spans = count_spans(found, {(mention.start, mention.end) for mention in turn.mentions})
        counts["spans hit"] += spans.hits
        counts["spans chosen"] += spans.chosen
        counts["spans wanted"] += spans.wanted
    return counts


def _select_spans(
    adapter: LMMAdapter, head: GroundingHead, picture: Image.Image, turn: Turn
) -> set[tuple[int, int]]:
    prompt = adapter.build_prompt(picture, turn.question, turn.answer)
    assert prompt.answer_offsets is not None
    (trace,) = trace_texts(adapter, [prompt])
    logits = head.keyword_logits(trace.hidden_states)
    return set(
        select_phrases(turn.answer, prompt.answer_offsets, logits, head.config.selector_threshold)
    )


def compute_word_scores(counts: WordCounts) -> WordScores:
    """The shares that counts give."""

    def share(parts: Sequence[str], wholes: Sequence[str]) -> float | None:
        whole = sum(counts[name] for name in wholes)
        return sum(counts[name] for name in parts) / whole if whole else None

    def answered(tasks: Sequence[str]) -> float | None:
        return share([f"right {task}" for task in tasks], [f"asked {task}" for task in tasks])

    tasks = sorted(name.removeprefix("asked ") for name in counts if name.startswith("asked "))
    spans = SpanCounts(*(counts[f"spans {name}"] for name in ("hit", "chosen", "wanted")))
    return WordScores(
        share(["things named"], ["things there"]) or 0.0,
        share(["stuff named"], ["stuff there"]),
        share(["things named", "stuff named"], ["things there", "stuff there"]) or 0.0,
        share(["kinds absent"], ["kinds named"]),
        {task: answered([task]) or 0.0 for task in tasks},
        answered([task for task in tasks if task != "follow up"]),
        spans.f1 if spans.wanted else None,
    )
