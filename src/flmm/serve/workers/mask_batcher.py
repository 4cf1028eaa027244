"""Where masks are ordered: one thread makes them, those that wait together in one pass."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from flmm.answers.answer import Phrase
from flmm.grounding.mask_predictor import MaskMethod, PhraseMasks, Said, Shown
from flmm.serve.metrics import Metrics
from flmm.stopwatch import Stopwatch
from flmm.types import ImageGeometry

# More are no faster: on a CPU their tensors leave the cache.
_PHRASES_TOGETHER = 8


class Customer(Protocol):
    """Whose phrases they are."""

    watch: Stopwatch
    cancelled: bool

    def guard(self, work: Callable[[], None], metrics: Metrics) -> None:
        """Does a part of the customer's work; what it raises is its own affair."""


@dataclass(frozen=True, eq=False)
class Order:
    """Phrases that wait for their masks; without any, the picture is only made ready for them."""

    customer: Customer
    picture: Image.Image
    said: Sequence[Said]
    refine: bool
    method: MaskMethod
    take: Callable[[Sequence[Phrase]], None]
    """Called in the order of the orders, with a mask for each phrase."""


class MaskDesk:
    """Takes orders from any thread.

    Args:
        masks: nobody else uses it meanwhile.
        metrics: handed to the customers' guards.
    """

    def __init__(self, masks: PhraseMasks, metrics: Metrics) -> None:
        self._masks = masks
        self._metrics = metrics
        self._orders: deque[Order] = deque()
        lock = threading.Lock()
        self._changed, self._begun = threading.Condition(lock), threading.Condition(lock)
        self._is_closing = False
        self._thread = threading.Thread(target=self._work, name="flmm-masks", daemon=True)
        self._thread.start()

    def put(self, order: Order) -> None:
        """The order is done as soon as it can be."""
        with self._changed:
            self._orders.append(order)
            self._changed.notify()

    @property
    def is_behind(self) -> bool:
        """Whether more waits than the next pass will do."""
        with self._changed:
            return sum(len(order.said) for order in self._orders) > _PHRASES_TOGETHER

    def wait_until_begun(self) -> None:
        """Comes back when no order waits: the last are being done, or have been."""
        with self._changed:
            self._begun.wait_for(lambda: not self._orders)

    def close(self) -> None:
        """Comes back when all orders are done."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while orders := self._next():
            found = self._together(orders)
            for order in orders:
                self._hand_over(order, found.get(order))

    def _next(self) -> list[Order]:
        """The orders that are done next; none when the desk is closed and empty."""
        with self._changed:
            while not self._orders and not self._is_closing:
                self._changed.wait()
            taken: list[Order] = []
            phrases = 0
            while self._orders and phrases < _PHRASES_TOGETHER:
                taken.append(self._orders.popleft())
                phrases += len(taken[-1].said)
            self._begun.notify_all()
            return taken

    def _together(self, orders: Iterable[Order]) -> dict[Order, Sequence[Phrase]]:
        """What can be made in one pass: the head's masks on pictures that lie alike."""
        alike: dict[tuple[ImageGeometry, bool], list[Order]] = {}
        for order in orders:
            if order.said and order.method == "head" and not order.customer.cancelled:
                key = (order.said[0][1].geometry, order.refine)
                alike.setdefault(key, []).append(order)
        found: dict[Order, Sequence[Phrase]] = {}
        for group in alike.values():
            if len(group) > 1:
                found.update(self._one_pass(group))
        return found

    def _one_pass(self, group: Sequence[Order]) -> dict[Order, Sequence[Phrase]]:
        try:
            shown = [
                Shown(order.said, self._masks.embed(order.picture, order.customer.watch))
                if order.refine
                else Shown(order.said)
                for order in group
            ]
            with ExitStack() as watches:
                for order in group:
                    watches.enter_context(order.customer.watch.stage("masks"))
                return dict(zip(group, self._masks.decode_each(shown), strict=True))
        except Exception:
            # Done again one by one, it is the failure of one of them.
            return {}

    def _hand_over(self, order: Order, found: Sequence[Phrase] | None) -> None:
        def work() -> None:
            order.take(self._alone(order) if found is None else found)

        order.customer.guard(work, self._metrics)

    def _alone(self, order: Order) -> Sequence[Phrase]:
        watch = order.customer.watch
        if not order.said:
            if order.refine:
                self._masks.embed(order.picture, watch)
            return ()
        return self._masks.ground(order.picture, order.said, order.refine, watch, order.method)
