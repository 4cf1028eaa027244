"""What Ray costs: a batch by actors beside the same batch without Ray, on this machine.

    python benchmarks/batch_ray.py [--pictures 96] [--rounds 1]

Compares one actor that has one core with one process that has one thread, and two actors with one
process that has two threads. Counted are the pictures between the first results of each core and
the last results, so that neither the loading of models nor the start of Ray is in the figures.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import ray
import torch
from PIL import Image

from flmm.batch.job import BatchJob
from flmm.batch.ray.cluster import ActorPool
from flmm.batch.ray.engine import run_on_ray
from flmm.batch.run import BatchSummary
from flmm.batch.settings import BatchSettings
from flmm.stickers.dataset import EVALUATION_SEED
from flmm.stickers.draw import draw
from flmm.stickers.scene import generate_scene

WAYS = {
    "1 process, 1 thread": (0, 1),
    "1 actor": (1, 1),
    "1 process, 2 threads": (0, 2),
    "2 actors": (2, 2),
}
"""Actors, cores."""


class Stopwatch:
    """What a picture takes: seconds, processor seconds of those who answer, and of all others.

    Args:
        in_actors: whether actors answer.
        num_first: so many results come first that were begun at the same time; what the later ones
            took is before the first's end.
    """

    def __init__(self, in_actors: bool, num_first: int) -> None:
        self._in_actors = in_actors
        self._num_first = num_first
        self._marks: list[tuple[float, ...]] = []

    def __call__(self, summary: BatchSummary) -> None:
        me = psutil.Process()
        answering = others = 0.0
        for process in (me, *me.children(recursive=True)):
            times = process.cpu_times()
            if process.name().startswith("ray::") or not self._in_actors:
                answering += times.user + times.system
            else:
                others += times.user + times.system
        self._marks.append((summary.new, time.monotonic(), answering, others))

    def measure(self) -> tuple[float, ...]:
        """Return the three figures."""
        marks = zip(self._marks[self._num_first - 1], self._marks[-1], strict=True)
        count, *used = (last - first for first, last in marks)
        return tuple(one / count for one in used)


def run(
    job: BatchJob, actors: int, cores: int, on_progress: Callable[[BatchSummary], None]
) -> None:
    """Do the job one way."""
    if actors:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        ray.init("local", num_cpus=cores, log_to_driver=False)
        run_on_ray(job, ActorPool(actors, actors), on_progress)
        ray.shutdown()
    else:
        torch.set_num_threads(cores)
        job.run_alone(on_progress)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pictures").mkdir()
        for number in range(options.pictures):
            picture = draw(generate_scene(EVALUATION_SEED + number)).picture
            Image.fromarray(picture).save(folder / "pictures" / f"{number}.png")
        settings = BatchSettings("What is in the picture?", max_new_tokens=64)
        job = BatchJob(str(folder / "pictures"), folder / "out", settings)
        for number in range(options.rounds):
            for way, (actors, cores) in WAYS.items():
                stopwatch = Stopwatch(actors > 0, num_first=cores)
                run(replace(job, out=folder / f"{way} {number}"), actors, cores, stopwatch)
                seconds, answering, others = stopwatch.measure()
                print(
                    f"{way}: {seconds:.3f} s a picture; of processor {answering:.3f} s to answer,"
                    f" {others:.3f} s for Ray",
                    flush=True,
                )


if __name__ == "__main__":
    main()
