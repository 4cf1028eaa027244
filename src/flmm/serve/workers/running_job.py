"""A job in the model queue, as the event loop sees it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from typing import TypeVar

from flmm.serve.workers.events import (
    AnswerFinished,
    AttendFinished,
    EventCallback,
    FinalEvent,
    JobEvent,
    JobFailed,
)
from flmm.serve.workers.job import Job
from flmm.serve.workers.model_queue import ModelQueue

Result = TypeVar("Result")
FinishedEvent = TypeVar("FinishedEvent", AnswerFinished, AttendFinished)


async def run_in_executor(executor: Executor, work: Callable[[], Result]) -> Result:
    return await asyncio.get_running_loop().run_in_executor(executor, work)


class RunningJob:
    """A job in the model queue, whose events are received in the event loop."""

    def __init__(
        self, queue: ModelQueue, executor: Executor, create_job: Callable[[EventCallback], Job]
    ) -> None:
        self._queue = queue
        self._executor = executor
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[JobEvent] = asyncio.Queue()
        self._job = create_job(self._receive_event)
        queue.put(self._job)

    def _receive_event(self, event: JobEvent) -> None:
        self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def cancel(self) -> None:
        """Cancel the job."""
        self._queue.cancel(self._job)

    async def run_in_thread(self, work: Callable[[], Result]) -> Result:
        """Run work that encodes masks outside the event loop, since it takes time."""
        return await run_in_executor(self._executor, work)

    async def events(self) -> AsyncIterator[JobEvent]:
        """Yield all events, up to the last one."""
        while True:
            event = await self._events.get()
            yield event
            if isinstance(event, FinalEvent):
                return

    async def wait_for(self, event_type: type[FinishedEvent]) -> FinishedEvent:
        """Return the job's last event, which is of that type.

        Raises:
            Exception: what the job failed with.
        """
        async for event in self.events():
            if isinstance(event, JobFailed):
                raise event.error
            if isinstance(event, event_type):
                return event
        raise AssertionError(f"the job did not end with {event_type.__name__}")
