"""How an LMM talks about sticker scenes: what its captions name, what it answers right."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flmm.embedded.evaluate_words import is_right, named_in, talk
from flmm.lmm.base import LMMAdapter
from flmm.lmm.generation import Generation
from flmm.report.overlaps import Interval, share
from flmm.stickers.draw import draw
from flmm.stickers.kinds import STUFF
from flmm.stickers.scene import draw_scene

TASKS = ("where", "what", "how many", "is there", "which", "follow up")
BUT_WHERE = "all but where"
"""All tasks together, without the one whose questions segmenting copies learn to answer with the
token."""
CAPTION = "caption"


@dataclass(frozen=True)
class Talk:
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


def measure_talk(
    adapter: LMMAdapter, seeds: Sequence[int], token: int | None, watch: Callable[[int, int], None]
) -> Talk:
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
    for number, seed in enumerate(seeds):
        drawing = draw(draw_scene(seed))
        scene = drawing.scene
        spoken = talk(adapter, drawing, seed)
        _, said = next(spoken)
        names = named_in(said.text)
        kinds = {kind.name for kind in scene.kinds}
        there = kinds | {band.name for band in scene.bands}
        named.append([name in names for name in sorted(there)])
        absent.append([name not in kinds for name in sorted(names - set(STUFF))])
        right.append({})
        tokens.append({CAPTION: [_has(said, token)]})
        for turn, said in spoken:
            groups = (turn.task,) if turn.task == "where" else (turn.task, BUT_WHERE)
            for group in groups:
                right[-1].setdefault(group, []).append(is_right(turn, said.text))
                tokens[-1].setdefault(group, []).append(_has(said, token))
        watch(number + 1, len(seeds))
    whole = share(named)
    assert whole is not None
    asked = sum(len(of_task) for picture in right for task, of_task in picture.items()
                if task != BUT_WHERE)  # fmt: skip
    return Talk(whole, share(absent), _by_task(right), _by_task(tokens), asked)


def _has(said: Generation, token: int | None) -> bool:
    return token in said.token_ids.tolist()


def _by_task(marks: Sequence[dict[str, list[bool]]]) -> dict[str, Interval]:
    """The tasks that were asked at all, in the order of tables."""
    found = {
        task: share([picture.get(task, []) for picture in marks])
        for task in (*TASKS, BUT_WHERE, CAPTION)
    }
    return {task: interval for task, interval in found.items() if interval is not None}
