"""Scores of an LMM's captions and answers about sticker scenes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flmm.embedded_model.evaluate_text import find_names, generate_answers, is_correct
from flmm.lmm.base import LMMAdapter
from flmm.lmm.generation import Generation
from flmm.report.overlaps import Interval, share_interval
from flmm.stickers.draw import draw
from flmm.stickers.kinds import STUFF
from flmm.stickers.scene import generate_scene

TASKS = ("where", "what", "how many", "is there", "which", "follow up")
ALL_BUT_WHERE = "all but where"
"""All tasks but "where", whose questions copies learn to answer with the token."""
CAPTION = "caption"


@dataclass(frozen=True)
class ConversationScores:
    """Scores of one model's captions and answers, in percent."""

    named: Interval
    """Share of a scene's things and stuff that greedy captions name."""
    absent: Interval | None
    """Share of the named things that are not in the scene; None if no thing is named."""
    right: dict[str, Interval]
    """Share of questions answered right (``is_correct``), by task and for ``ALL_BUT_WHERE``."""
    token: dict[str, Interval]
    """Share of answers with the token, by task, for ``ALL_BUT_WHERE`` and for captions."""
    questions: int


def measure_conversation(
    adapter: LMMAdapter,
    scene_seeds: Sequence[int],
    token_id: int | None,
    on_progress: Callable[[int, int], None],
) -> ConversationScores:
    """Generate a caption and answers for every scene, greedily, and score them.

    Args:
        adapter: the model.
        scene_seeds: one a scene.
        token_id: the special token to count in generated texts; None for a model without one.
        on_progress: called with (done, total) scenes.
    """
    named: list[list[bool]] = []
    absent: list[list[bool]] = []
    right: list[dict[str, list[bool]]] = []
    tokens: list[dict[str, list[bool]]] = []
    for number, seed in enumerate(scene_seeds):
        drawing = draw(generate_scene(seed))
        scene = drawing.scene
        generations = generate_answers(adapter, drawing, seed)
        _, caption = next(generations)
        names = find_names(caption.text)
        kinds = {kind.name for kind in scene.kinds}
        present = kinds | {band.name for band in scene.bands}
        named.append([name in names for name in sorted(present)])
        absent.append([name not in kinds for name in sorted(names - set(STUFF))])
        right.append({})
        tokens.append({CAPTION: [_contains_token(caption, token_id)]})
        for turn, answer in generations:
            groups = (turn.task,) if turn.task == "where" else (turn.task, ALL_BUT_WHERE)
            for group in groups:
                right[-1].setdefault(group, []).append(is_correct(turn, answer.text))
                tokens[-1].setdefault(group, []).append(_contains_token(answer, token_id))
        on_progress(number + 1, len(scene_seeds))
    named_share = share_interval(named)
    assert named_share is not None
    num_questions = sum(len(marks) for picture in right for task, marks in picture.items()
                if task != ALL_BUT_WHERE)  # fmt: skip
    return ConversationScores(
        named_share,
        share_interval(absent),
        _task_intervals(right),
        _task_intervals(tokens),
        num_questions,
    )


def _contains_token(generation: Generation, token_id: int | None) -> bool:
    return token_id in generation.token_ids.tolist()


def _task_intervals(outcomes: Sequence[dict[str, list[bool]]]) -> dict[str, Interval]:
    """Return the intervals of tasks that occur, in the order of the tables."""
    intervals = {
        task: share_interval([picture.get(task, []) for picture in outcomes])
        for task in (*TASKS, ALL_BUT_WHERE, CAPTION)
    }
    return {task: interval for task, interval in intervals.items() if interval is not None}
