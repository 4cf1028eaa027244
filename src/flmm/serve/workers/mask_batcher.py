"""A thread that predicts masks; tasks that wait at the same time run in one pass."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from flmm.answers.phrase import Phrase
from flmm.attention.trace import TracedPhrase
from flmm.grounding.mask_options import MaskOptions
from flmm.grounding.mask_predictor import MaskMethod, MaskPredictor, PicturePhrases
from flmm.serve.metrics import Metrics
from flmm.stopwatch import Stopwatch
from flmm.types import ImageGeometry

# More are no faster: on a CPU their tensors leave the cache.
_PHRASES_PER_BATCH = 8


class MaskTaskOwner(Protocol):
    """The job that a mask task belongs to."""

    stopwatch: Stopwatch
    is_cancelled: bool

    def run_guarded(self, work: Callable[[], None], metrics: Metrics) -> None:
        """Run a part of the owner's work; an exception ends this owner only."""


@dataclass(frozen=True, eq=False)
class MaskTask:
    """Phrases that wait for their masks; without phrases, the picture is only embedded."""

    owner: MaskTaskOwner
    picture: Image.Image
    traced_phrases: Sequence[TracedPhrase]
    mask_options: MaskOptions
    method: MaskMethod | None
    """None for the predictor's own."""
    on_masks: Callable[[Sequence[Phrase]], None]
    """Called with a mask for each phrase; the tasks' calls come in the order of ``put``."""


class MaskBatcher:
    """Runs mask tasks in a thread of its own; all methods may be called from any thread.

    Args:
        predictor: nobody else may use it meanwhile.
        metrics: passed to the owners' ``run_guarded``.
    """

    def __init__(self, predictor: MaskPredictor, metrics: Metrics) -> None:
        self._predictor = predictor
        self._metrics = metrics
        self._tasks: deque[MaskTask] = deque()
        lock = threading.Lock()
        self._changed, self._taken = threading.Condition(lock), threading.Condition(lock)
        self._is_closing = False
        self._thread = threading.Thread(target=self._run_loop, name="flmm-masks", daemon=True)
        self._thread.start()

    def put(self, task: MaskTask) -> None:
        """Queue a task."""
        with self._changed:
            self._tasks.append(task)
            self._changed.notify()

    @property
    def has_backlog(self) -> bool:
        """Whether more phrases wait than the next batch takes."""
        with self._changed:
            return sum(len(task.traced_phrases) for task in self._tasks) > _PHRASES_PER_BATCH

    def wait_until_empty(self) -> None:
        """Wait until no task is queued; the last ones may still run."""
        with self._changed:
            self._taken.wait_for(lambda: not self._tasks)

    def close(self) -> None:
        """Finish all tasks, and stop the thread."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join()

    def _run_loop(self) -> None:
        while tasks := self._next_batch():
            phrases = self._predict_together(tasks)
            for task in tasks:
                self._deliver(task, phrases.get(task))

    def _next_batch(self) -> list[MaskTask]:
        """Return the tasks that run next; none when the batcher is closed and empty."""
        with self._changed:
            while not self._tasks and not self._is_closing:
                self._changed.wait()
            batch: list[MaskTask] = []
            num_phrases = 0
            while self._tasks and num_phrases < _PHRASES_PER_BATCH:
                batch.append(self._tasks.popleft())
                num_phrases += len(batch[-1].traced_phrases)
            self._taken.notify_all()
            return batch

    def _predict_together(self, tasks: Iterable[MaskTask]) -> dict[MaskTask, Sequence[Phrase]]:
        """Return what one pass can predict: the model's masks on pictures of one geometry."""
        groups: dict[tuple[ImageGeometry, bool], list[MaskTask]] = {}
        for task in tasks:
            if task.traced_phrases and task.method != "kmeans" and not task.owner.is_cancelled:
                key = (task.traced_phrases[0][1].geometry, task.mask_options.refine)
                groups.setdefault(key, []).append(task)
        phrases: dict[MaskTask, Sequence[Phrase]] = {}
        for group in groups.values():
            if len(group) > 1:
                phrases.update(self._predict_batch(group))
        return phrases

    def _predict_batch(self, group: Sequence[MaskTask]) -> dict[MaskTask, Sequence[Phrase]]:
        try:
            pictures = [
                PicturePhrases(
                    task.traced_phrases,
                    self._predictor.embed_picture(task.picture, task.owner.stopwatch)
                    if task.mask_options.refine
                    else None,
                    task.mask_options,
                )
                for task in group
            ]
            with ExitStack() as stages:
                for task in group:
                    stages.enter_context(task.owner.stopwatch.stage("masks"))
                return dict(zip(group, self._predictor.predict_batch(pictures), strict=True))
        except Exception:
            # The tasks then run one by one, so that only the one at fault fails.
            return {}

    def _deliver(self, task: MaskTask, phrases: Sequence[Phrase] | None) -> None:
        def work() -> None:
            task.on_masks(self._predict_alone(task) if phrases is None else phrases)

        task.owner.run_guarded(work, self._metrics)

    def _predict_alone(self, task: MaskTask) -> Sequence[Phrase]:
        stopwatch = task.owner.stopwatch
        if not task.traced_phrases:
            if task.mask_options.refine:
                self._predictor.embed_picture(task.picture, stopwatch)
            return ()
        return self._predictor.predict(
            task.picture, task.traced_phrases, task.mask_options, stopwatch, task.method
        )
