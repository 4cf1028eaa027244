"""Metrics of the embedded LMM's captions and answers about drawn scenes.

Scenes give counts, which several processes can add up; scores follow from the sums.
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
from flmm.lmm.message import Message
from flmm.masks.selector import select_phrases
from flmm.stickers.draw import Drawing
from flmm.stickers.kinds import KINDS, STUFF
from flmm.stickers.language import Turn, caption_turn
from flmm.stickers.questions import ask_random_question, generate_conversation
from flmm.stickers.scene import Scene

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


TextCounts = Counter[str]
"""Counts by event; only this file knows the keys."""


@dataclass(frozen=True)
class TextScores:
    """Shares in 0..1; None for what was not asked."""

    named_things: float
    named_stuff: float | None
    named: float
    """Share of the scenes' kinds of thing and stuff that greedy captions name."""
    absent: float | None
    """Share of the kinds of thing that captions name which are not in the scene."""
    answers: dict[str, float]
    """Share of the correct answers (`is_correct`), by task."""
    all_answers: float | None
    """Share of the correct answers to all questions but follow-ups."""
    keyword_f1: float | None
    """F1 of the keyword selector's phrases in true captions and answers; both ends must match."""


def find_names(text: str) -> set[str]:
    """Return the kinds of thing and stuff that a text names."""
    return {_NAME_BY_FORM[form] for form in _NAME_PATTERN.findall(text.lower())}


def is_correct(turn: Turn, answer: str) -> bool:
    """Return whether the answer equals the true one; for yes and no, only its first word counts."""
    first = turn.answer.split(",")[0]
    if first in ("Yes", "No"):
        return answer.split(",")[0] == first
    return answer == turn.answer


@dataclass(frozen=True)
class AskedTurn:
    """A turn that an LMM is asked, with its true answer."""

    turn: Turn
    max_new_tokens: int
    earlier: Turn | None = None
    """The turn before a follow-up, answered truly."""


def ask_about_scene(scene: Scene, seed: int) -> Iterator[AskedTurn]:
    """Yield what is asked about a scene: a caption, questions, a follow-up.

    The follow-up's history holds the true first answer, as in VisDial (Das et al. 2017): otherwise
    what "it" means would depend on the LMM's first answer.

    Args:
        scene: the scene.
        seed: seed of the questions.
    """
    yield AskedTurn(caption_turn(scene), _CAPTION_TOKENS)
    random = np.random.default_rng(seed)
    for _ in range(_QUESTIONS):
        yield AskedTurn(ask_random_question(scene, random), _ANSWER_TOKENS)
    first, second = generate_conversation(scene, random)
    yield AskedTurn(second, _ANSWER_TOKENS, first)


def generate_answers(
    adapter: LMMAdapter, drawing: Drawing, seed: int
) -> Iterator[tuple[Turn, Generation]]:
    """Yield the turns of ``ask_about_scene`` and the LMM's greedy answers.

    Args:
        adapter: adapter of the LMM.
        drawing: drawing whose picture is asked about.
        seed: seed of the questions.
    """
    picture = Image.fromarray(drawing.picture)
    for asked in ask_about_scene(drawing.scene, seed):
        if asked.earlier is None:
            prompt = adapter.build_prompt(picture, asked.turn.question)
        else:
            question = Message("user", asked.earlier.question, (picture,))
            history = [question, Message("assistant", asked.earlier.answer)]
            prompt = adapter.build_prompt((), asked.turn.question, history=history)
        yield asked.turn, adapter.generate(prompt, asked.max_new_tokens)


def count_text_results(
    adapter: LMMAdapter, head: GroundingHead, drawing: Drawing, seed: int, *, has_stuff: bool
) -> TextCounts:
    """Count what the LMM's caption and answers have right; `seed` chooses the questions.

    With a photograph in place of stuff (not `has_stuff`), only the things that the caption names
    are counted: what else the picture shows is unknown.
    """
    scene = drawing.scene
    counts: TextCounts = Counter()
    answers = generate_answers(adapter, drawing, seed)
    true_caption, caption = next(answers)
    named = find_names(caption.text)
    kinds = {kind.name for kind in scene.kinds}
    counts["things there"] += len(kinds)
    counts["things named"] += len(kinds & named)
    if not has_stuff:
        return counts
    named_kinds = named - set(STUFF)
    counts["kinds named"] += len(named_kinds)
    counts["kinds absent"] += len(named_kinds - kinds)
    stuff = {band.name for band in scene.bands}
    counts["stuff there"] += len(stuff)
    counts["stuff named"] += len(stuff & named)
    turns = [true_caption]
    for turn, answer in answers:
        counts[f"asked {turn.task}"] += 1
        counts[f"right {turn.task}"] += is_correct(turn, answer.text)
        turns.append(turn)
    for turn in turns[:2]:
        selected = _select_spans(adapter, head, Image.fromarray(drawing.picture), turn)
        spans = count_spans(selected, {(mention.start, mention.end) for mention in turn.mentions})
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


def compute_text_scores(counts: TextCounts) -> TextScores:
    """Return the shares that summed counts give."""

    def share(parts: Sequence[str], wholes: Sequence[str]) -> float | None:
        whole = sum(counts[name] for name in wholes)
        return sum(counts[name] for name in parts) / whole if whole else None

    def correct_share(tasks: Sequence[str]) -> float | None:
        return share([f"right {task}" for task in tasks], [f"asked {task}" for task in tasks])

    tasks = sorted(name.removeprefix("asked ") for name in counts if name.startswith("asked "))
    spans = SpanCounts(*(counts[f"spans {name}"] for name in ("hit", "chosen", "wanted")))
    return TextScores(
        share(["things named"], ["things there"]) or 0.0,
        share(["stuff named"], ["stuff there"]),
        share(["things named", "stuff named"], ["things there", "stuff there"]) or 0.0,
        share(["kinds absent"], ["kinds named"]),
        {task: correct_share([task]) or 0.0 for task in tasks},
        correct_share([task for task in tasks if task != "follow up"]),
        spans.f1 if spans.wanted else None,
    )
