"""A batch on Ray: three nodes on this machine, whose actors die; skipped where Ray is not there.

``make test-cluster`` runs it in an environment of its own.
"""

import json
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tiny_grounding import save_lmm, save_tiny_head
from training_workspace import make_workspace

from flmm.batch import GroundingActor
from flmm.batch.cache_job import CacheJob
from flmm.batch.job import BatchJob, ModelNames
from flmm.batch.run import BatchSummary
from flmm.batch.settings import BatchSettings
from flmm.errors import InputError
from flmm.train.settings import read_settings

ray = pytest.importorskip("ray")
psutil = pytest.importorskip("psutil")

NUM_PICTURES = 40
NUM_NODES = 3


def test_a_cluster_that_is_not_there_is_said_at_once() -> None:
    from flmm.batch.ray.cluster import ActorPool, connect

    for address, part in (
        ("127.0.0.1:1", "Ray cannot be reached at"),
        ("no address", "Ray cannot be reached at"),
        ("ray://127.0.0.1:10001", "give the address of its head"),
    ):
        with pytest.raises(InputError, match=part), connect(ActorPool(address=address)):
            pass


@pytest.fixture(scope="module")
def nodes() -> "Iterator[list[object]]":
    """The nodes of a cluster with one core each; the test's process is on one without."""
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    started = [cluster.add_node(num_cpus=1) for _ in range(NUM_NODES)]
    ray.init(address=cluster.address, log_to_driver=False)
    # The nodes cannot import a test's file.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield started
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> BatchJob:
    folder = tmp_path_factory.mktemp("work")
    head = save_tiny_head(folder / "head", str(save_lmm(folder / "lmm")))
    pictures = folder / "pictures"
    pictures.mkdir()
    for number in range(NUM_PICTURES):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(pictures / f"{number}.png")
    (pictures / "broken.png").write_bytes(b"broken")
    (pictures / "nowhere.png").symlink_to("missing.png")
    # One at a time, since a padded batch rounds otherwise.
    settings = BatchSettings("What is on the grass?", max_new_tokens=3)
    return BatchJob(str(pictures), folder / "on-ray", settings, ModelNames(str(head)), together=1)


def read(folder: Path) -> dict[str, object]:
    results = {}
    for file in folder.glob("*.parquet"):
        for line in map(json.loads, pq.read_table(file)["line"].to_pylist()):
            assert line["id"] not in results
            line.get("answer", {}).pop("timings", None)
            results[line["id"]] = line
    return results


def start_dangerous_work() -> Callable[[Sequence[int]], Sequence[int]]:
    def double(numbers: Sequence[int]) -> Sequence[int]:
        if 10 in numbers:
            time.sleep(1)  # so that others may wait for this process
            os.kill(os.getpid(), signal.SIGKILL)
        return [2 * number for number in numbers]

    return double


def start_impossible_work() -> Callable[[Sequence[int]], Sequence[int]]:
    def fail(_: Sequence[int]) -> Sequence[int]:
        raise ValueError("CUDA error")

    return fail


def test_what_kills_its_process_costs_no_other_item_its_result(nodes: list[object]) -> None:
    from flmm.batch.ray.cluster import ActorPool, ActorResources
    from flmm.batch.ray.rounds import ActorWork, do_on_actors

    assert len(nodes) == NUM_NODES
    work = ActorWork(
        start_dangerous_work,
        lambda _: -1,
        ActorPool(2, 2),
        ActorResources(1, 0),
        items_per_block=5,
        items_per_last_block=2,
    )
    results = [result for some in do_on_actors(range(20), work) for result in some]
    assert sorted(results) == sorted([-1, *(2 * number for number in range(20) if number != 10)])
    with pytest.raises(RuntimeError, match="ValueError: CUDA error"):
        list(do_on_actors(range(20), replace(work, start=start_impossible_work)))


def test_an_item_that_dies_with_anothers_actor_is_done_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from flmm.batch.ray import rounds
    from flmm.batch.ray.cluster import ActorPool, ActorResources

    # The numbers of the rounds in which items die.
    deaths = {3: range(100), 4: range(1), 5: range(2)}
    sizes: list[int] = []

    def do_round(
        waiting: dict[int, bytes], _work: object, blocks: Iterator[int]
    ) -> Iterator[list[int]]:
        sizes.append(next(blocks))
        done = [number for number in waiting if len(sizes) - 1 not in deaths.get(number, ())]
        yield [2 * pickle.loads(waiting.pop(number)) for number in done]

    monkeypatch.setattr(rounds, "_do_round", do_round)
    work = rounds.ActorWork(
        start_dangerous_work, lambda _: -1, ActorPool(2, 2), ActorResources(1, 0), 5, 2
    )
    results = [result for some in rounds.do_on_actors(range(10), work) for result in some]
    assert sorted(results) == sorted([-1, *(2 * number for number in range(10) if number != 3)])
    assert sizes == [2, 1, 1, 1]


def test_the_actor_in_a_pipeline_of_ones_own(nodes: list[object], job: BatchJob) -> None:
    assert nodes
    images = [f"{job.source}/{name}.png" for name in (0, "broken", 1)]
    answers = (
        ray.data.from_items([{"image": image, "number": 1} for image in images])
        .map_batches(
            GroundingActor,
            fn_constructor_args=(job.models, job.settings),
            batch_size=2,
            compute=ray.data.ActorPoolStrategy(size=1),
        )
        .take_all()
    )
    by_name = {Path(row["image"]).stem: row for row in answers}
    assert json.loads(by_name["0"]["answer"])["size"] == [20, 20]
    assert by_name["0"]["error"] is by_name["broken"]["answer"] is None
    assert "broken" in by_name["broken"]["error"]
    assert by_name["1"]["number"] == 1


def test_the_cache_of_a_training(
    nodes: list[object], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from flmm.batch.ray.cache_engine import fill_cache_on_ray
    from flmm.batch.ray.cluster import ActorPool

    assert nodes
    settings = make_workspace(tmp_path, tmp_path_factory).write_settings(cache="cache")
    broken = min((tmp_path / "data").rglob("*.jpg"))
    broken.write_bytes(b"broken")
    messages: list[str] = []
    job = CacheJob(read_settings(settings, {}), tmp_path, messages.append)
    summary, place = fill_cache_on_ray(job, ActorPool(), lambda _: None)
    assert (summary.items, summary.new, place) == (8, 7, tmp_path / "cache")
    (message,) = messages
    assert str(broken) in message
    assert summary.failed == 1
    assert job.run_alone(lambda _: None)[0].new == 0


def test_nothing_is_lost_when_actors_and_a_node_die(nodes: list[object], job: BatchJob) -> None:
    from flmm.batch.ray.cluster import ActorPool
    from flmm.batch.ray.engine import run_on_ray

    def kill_now_and_then(summary: BatchSummary) -> None:
        if summary.new in (4, 12):
            workers = psutil.Process().children(recursive=True)
            actor = next(one for one in workers if one.name().startswith("ray::MapWorker"))
            actor.kill()
            kills.append("actor")
        if summary.new == 8:
            nodes.pop().kill_raylet()  # type: ignore[attr-defined]
            kills.append("node")

    kills: list[str] = []
    summary, place = run_on_ray(job, ActorPool(1, NUM_NODES), kill_now_and_then)
    assert kills == ["actor", "node", "actor"]
    assert (summary.items, summary.new, summary.failed) == (NUM_PICTURES + 2,) * 2 + (2,)
    here = replace(job, out=job.out.with_name("here"))
    here.run(here.models.load())
    assert read(place) == read(here.out)
    assert run_on_ray(job, ActorPool())[0].new == 2  # the failures are tried again
