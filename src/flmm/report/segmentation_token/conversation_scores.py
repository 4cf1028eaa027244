"""How an LMM talks about sticker scenes: what its captions name, what it answers right."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flmm.embedded.evaluate_words import find_names, generate_answers, is_correct
from flmm.lmm.base import LMMAdapter
from flmm.lmm.generation import Generation
from flmm.report.overlaps import Interval, share_interval
from flmm.stickers.draw import draw
from flmm.stickers.kinds import STUFF
from flmm.stickers.scene import generate_scene

TASKS = ("where", "what", "how many", "is there", "which", "follow up")
ALL_BUT_WHERE = "all but where"
"""All tasks together, without the one whose questions segmenting copies learn to answer with the
token."""
CAPTION = "caption"


@dataclass(frozen=True)
class ConversationScores:
    """How one model talks, in percent."""

    named: Interval
    """Share of the things and stuff that are there which greedy captions name."""
    absent: Interval | None
    """Share of the things that captions name which are not there; None where they name none."""
    right: dict[str, Interval]
    """Share of questions answered right (``is_right``), by task and for ``BUT_WHERE``."""
    token: dict[str, Interval]
    """Share of answers with the token, by task, for ``BUT_WHERE`` and for captions."""
    questions: int


def measure_conversation(
    adapter: LMMAdapter,
    scene_seeds: Sequence[int],
    token_id: int | None,
    on_progress: Callable[[int, int], None],
) -> ConversationScores:
    """Greedy captions and answers for every scene.

    Args:
        adapter: the model.
        seeds: of the scenes.
        token: the special token that is looked for in what it says, which is no word of it; None
            for a model that has none.
        watch: shown (done, all).
    """
    named: list[list[bool]] = []
    absent: list[list[bool]] = []
    right: list[dict[str, list[bool]]] = []
    tokens: list[dict[str, list[bool]]] = []
    for number, seed in enumerate(scene_seeds):
        drawing = draw(generate_scene(seed))
        scene = drawing.scene
        spoken = generate_answers(adapter, drawing, seed)
        _, said = next(spoken)
        names = find_names(said.text)
        kinds = {kind.name for kind in scene.kinds}
        there = kinds | {band.name for band in scene.bands}
        named.append([name in names for name in sorted(there)])
        absent.append([name not in kinds for name in sorted(names - set(STUFF))])
        right.append({})
        tokens.append({CAPTION: [_contains_token(said, token_id)]})
        for turn, said in spoken:
            groups = (turn.task,) if turn.task == "where" else (turn.task, ALL_BUT_WHERE)
            for group in groups:
                right[-1].setdefault(group, []).append(is_correct(turn, said.text))
                tokens[-1].setdefault(group, []).append(_contains_token(said, token_id))
        on_progress(number + 1, len(scene_seeds))
    whole = share_interval(named)
    assert whole is not None
    asked = sum(len(of_task) for picture in right for task, of_task in picture.items()
                if task != ALL_BUT_WHERE)  # fmt: skip
    return ConversationScores(
        whole, share_interval(absent), _task_intervals(right), _task_intervals(tokens), asked
    )


def _contains_token(generation: Generation, token_id: int | None) -> bool:
    return token_id in generation.token_ids.tolist()


def _task_intervals(outcomes: Sequence[dict[str, list[bool]]]) -> dict[str, Interval]:
    """The tasks that were asked at all, in the order of tables."""
    found = {
        task: share_interval([picture.get(task, []) for picture in outcomes])
        for task in (*TASKS, ALL_BUT_WHERE, CAPTION)
    }
    return {task: interval for task, interval in found.items() if interval is not None}
