"""Scores of an LMM's captions and answers about sticker scenes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flmm.embedded_model.evaluate_text import find_names, generate_answers, is_correct
from flmm.lmm.base import LMMAdapter
from flmm.lmm.generation import Generation
from flmm.report.overlaps import Interval, share_interval
from flmm.stickers.draw import draw
from flmm.stickers.kinds import STUFF
from flmm.stickers.language import Turn
from flmm.stickers.scene import Scene, generate_scene

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


class ConversationScorer:
    """Counts what captions and answers have right, scene after scene.

    Args:
        token_id: the special token to count in generated texts; None for a model without one.
    """

    def __init__(self, token_id: int | None) -> None:
        self._token_id = token_id
        self._named: list[list[bool]] = []
        self._absent: list[list[bool]] = []
        self._right: list[dict[str, list[bool]]] = []
        self._tokens: list[dict[str, list[bool]]] = []

    def add_scene(self, scene: Scene, answers: Sequence[tuple[Turn, Generation]]) -> None:
        """Count a scene's caption, which comes first, and answers, as ``generate_answers`` has."""
        (_, caption), *questions = answers
        names = find_names(caption.text)
        kinds = {kind.name for kind in scene.kinds}
        present = kinds | {band.name for band in scene.bands}
        self._named.append([name in names for name in sorted(present)])
        self._absent.append([name not in kinds for name in sorted(names - set(STUFF))])
        right: dict[str, list[bool]] = {}
        tokens = {CAPTION: [self._contains_token(caption)]}
        for turn, answer in questions:
            groups = (turn.task,) if turn.task == "where" else (turn.task, ALL_BUT_WHERE)
            for group in groups:
                right.setdefault(group, []).append(is_correct(turn, answer.text))
                tokens.setdefault(group, []).append(self._contains_token(answer))
        self._right.append(right)
        self._tokens.append(tokens)

    def compute_scores(self) -> ConversationScores:
        """Return the scores of at least one scene."""
        named_share = share_interval(self._named)
        assert named_share is not None
        num_questions = sum(
            len(marks)
            for picture in self._right
            for task, marks in picture.items()
            if task != ALL_BUT_WHERE
        )
        return ConversationScores(
            named_share,
            share_interval(self._absent),
            _task_intervals(self._right),
            _task_intervals(self._tokens),
            num_questions,
        )

    def _contains_token(self, generation: Generation) -> bool:
        return self._token_id in generation.token_ids.tolist()


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
        token_id: as of ``ConversationScorer``.
        on_progress: called with (done, total) scenes.
    """
    scorer = ConversationScorer(token_id)
    for number, seed in enumerate(scene_seeds):
        drawing = draw(generate_scene(seed))
        scorer.add_scene(drawing.scene, list(generate_answers(adapter, drawing, seed)))
        on_progress(number + 1, len(scene_seeds))
    return scorer.compute_scores()


def _task_intervals(outcomes: Sequence[dict[str, list[bool]]]) -> dict[str, Interval]:
    """Return the intervals of tasks that occur, in the order of the tables."""
    intervals = {
        task: share_interval([picture.get(task, []) for picture in outcomes])
        for task in (*TASKS, ALL_BUT_WHERE, CAPTION)
    }
    return {task: interval for task, interval in intervals.items() if interval is not None}
