"""The jobs of one request: one, or one for each of several answers to the same question."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from flmm.serve.workers.events import FinalEvent, JobEvent
from flmm.serve.workers.running_job import FinishedEvent, Result, RunningJob


@dataclass(frozen=True)
class JobGroup:
    """Jobs in the model queue, received together in the event loop."""

    jobs: Sequence[RunningJob]

    def cancel(self) -> None:
        """Cancel all jobs."""
        for job in self.jobs:
            job.cancel()

    async def run_in_thread(self, work: Callable[[], Result]) -> Result:
        """Run work that encodes masks outside the event loop, since it takes time."""
        return await self.jobs[0].run_in_thread(work)

    async def wait_for(self, event_type: type[FinishedEvent]) -> list[FinishedEvent]:
        """Return each job's last event, which is of that type.

        Raises:
            Exception: what a job failed with; the others are cancelled.
        """
        try:
            return [await job.wait_for(event_type) for job in self.jobs]
        except Exception:
            self.cancel()
            raise

    async def events(self) -> AsyncIterator[tuple[int, JobEvent]]:
        """Yield all jobs' events as they come, each with its job's index."""
        received: asyncio.Queue[tuple[int, JobEvent]] = asyncio.Queue()

        async def forward(index: int, job: RunningJob) -> None:
            async for event in job.events():
                received.put_nowait((index, event))

        tasks = [asyncio.ensure_future(forward(*entry)) for entry in enumerate(self.jobs)]
        num_running = len(tasks)
        try:
            while num_running:
                index, event = await received.get()
                num_running -= isinstance(event, FinalEvent)
                yield index, event
        finally:
            for task in tasks:
                task.cancel()
