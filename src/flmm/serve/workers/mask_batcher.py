"""Where masks are ordered: one thread makes them, those that wait together in one pass."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from flmm.answers.answer import Phrase
from flmm.grounding.mask_predictor import MaskMethod, MaskPredictor, PicturePhrases, TracedPhrase
from flmm.serve.metrics import Metrics
from flmm.stopwatch import Stopwatch
from flmm.types import ImageGeometry

# More are no faster: on a CPU their tensors leave the cache.
_PHRASES_PER_BATCH = 8


class MaskTaskOwner(Protocol):
    """Whose phrases they are."""

    stopwatch: Stopwatch
    is_cancelled: bool

    def run_guarded(self, work: Callable[[], None], metrics: Metrics) -> None:
        """Does a part of the customer's work; what it raises is its own affair."""


@dataclass(frozen=True, eq=False)
class MaskTask:
    """Phrases that wait for their masks; without any, the picture is only made ready for them."""

    owner: MaskTaskOwner
    picture: Image.Image
    traced_phrases: Sequence[TracedPhrase]
    refine: bool
    method: MaskMethod
    on_masks: Callable[[Sequence[Phrase]], None]
    """Called in the order of the orders, with a mask for each phrase."""


class MaskBatcher:
    """Takes orders from any thread.

    Args:
        masks: nobody else uses it meanwhile.
        metrics: handed to the customers' guards.
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
        """The order is done as soon as it can be."""
        with self._changed:
            self._tasks.append(task)
            self._changed.notify()

    @property
    def has_backlog(self) -> bool:
        """Whether more waits than the next pass will do."""
        with self._changed:
            return sum(len(order.traced_phrases) for order in self._tasks) > _PHRASES_PER_BATCH

    def wait_until_empty(self) -> None:
        """Comes back when no order waits: the last are being done, or have been."""
        with self._changed:
            self._taken.wait_for(lambda: not self._tasks)

    def close(self) -> None:
        """Comes back when all orders are done."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join()

    def _run_loop(self) -> None:
        while orders := self._next_batch():
            found = self._predict_together(orders)
            for order in orders:
                self._deliver(order, found.get(order))

    def _next_batch(self) -> list[MaskTask]:
        """The orders that are done next; none when the desk is closed and empty."""
        with self._changed:
            while not self._tasks and not self._is_closing:
                self._changed.wait()
            taken: list[MaskTask] = []
            phrases = 0
            while self._tasks and phrases < _PHRASES_PER_BATCH:
                taken.append(self._tasks.popleft())
                phrases += len(taken[-1].traced_phrases)
            self._taken.notify_all()
            return taken

    def _predict_together(self, tasks: Iterable[MaskTask]) -> dict[MaskTask, Sequence[Phrase]]:
        """What can be made in one pass: the head's masks on pictures that lie alike."""
        alike: dict[tuple[ImageGeometry, bool], list[MaskTask]] = {}
        for order in tasks:
            if order.traced_phrases and order.method == "head" and not order.owner.is_cancelled:
                key = (order.traced_phrases[0][1].geometry, order.refine)
                alike.setdefault(key, []).append(order)
        found: dict[MaskTask, Sequence[Phrase]] = {}
        for group in alike.values():
            if len(group) > 1:
                found.update(self._predict_batch(group))
        return found

    def _predict_batch(self, group: Sequence[MaskTask]) -> dict[MaskTask, Sequence[Phrase]]:
        try:
            shown = [
                PicturePhrases(
                    order.traced_phrases,
                    self._predictor.embed_picture(order.picture, order.owner.stopwatch),
                )
                if order.refine
                else PicturePhrases(order.traced_phrases)
                for order in group
            ]
            with ExitStack() as watches:
                for order in group:
                    watches.enter_context(order.owner.stopwatch.stage("masks"))
                return dict(zip(group, self._predictor.predict_batch(shown), strict=True))
        except Exception:
            # Done again one by one, it is the failure of one of them.
            return {}

    def _deliver(self, task: MaskTask, phrases: Sequence[Phrase] | None) -> None:
        def work() -> None:
            task.on_masks(self._predict_alone(task) if phrases is None else phrases)

        task.owner.run_guarded(work, self._metrics)

    def _predict_alone(self, task: MaskTask) -> Sequence[Phrase]:
        watch = task.owner.stopwatch
        if not task.traced_phrases:
            if task.refine:
                self._predictor.embed_picture(task.picture, watch)
            return ()
        return self._predictor.predict(
            task.picture, task.traced_phrases, task.refine, watch, task.method
        )
