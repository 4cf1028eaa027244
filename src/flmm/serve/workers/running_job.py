"""A job in the model queue, as the event loop sees it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from typing import TypeVar

from flmm.serve.workers.events import Attended, Event, Failed, Finished, Last, Tell
from flmm.serve.workers.job import Job
from flmm.serve.workers.model_queue import ModelQueue

Made = TypeVar("Made")
End = TypeVar("End", Finished, Attended)


async def _beside(executor: Executor, make: Callable[[], Made]) -> Made:
    return await asyncio.get_running_loop().run_in_executor(executor, make)


class Running:
    """A job in the queue, heard from the event loop."""

    def __init__(self, queue: ModelQueue, writers: Executor, make: Callable[[Tell], Job]) -> None:
        self._queue = queue
        self._writers = writers
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._job = make(self._take)
        queue.put(self._job)

    def _take(self, event: Event) -> None:
        self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def cancel(self) -> None:
        """Nobody waits any more."""
        self._queue.cancel(self._job)

    async def written(self, write: Callable[[], Made]) -> Made:
        """Runs what puts masks into words beside the event loop: large ones take their time."""
        return await _beside(self._writers, write)

    async def events(self) -> AsyncIterator[Event]:
        """All events, up to the last one."""
        while True:
            event = await self._events.get()
            yield event
            if isinstance(event, Last):
                return

    async def finished(self, kind: type[End]) -> End:
        """The end, of the kind that such a job has.

        Raises:
            Exception: what went wrong.
        """
        async for event in self.events():
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, kind):
                return event
        raise AssertionError(f"the job did not end with {kind.__name__}")
