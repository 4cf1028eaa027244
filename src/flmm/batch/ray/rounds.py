"""Items done by actors of Ray Data, each once, whatever dies on the way.

An item whose actor or node dies is done again. One whose actor dies whenever it is tried is tried
alone, until a round does no item any more, and then given up, so that it costs no other item its
result.
"""

import itertools
import logging
import pickle
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy

from flmm.batch.ray.cluster import ActorPool, ActorResources
from flmm.errors import InputError, first_line
from flmm.grounding.freed_memory import keep_freed_memory

_ITEMS_PER_ROUND = 500_000
"""The actors begin anew for each round; the driver holds so many items."""
_RETRIES = 1
"""Of a block whose actor died. Ray Data's own number is infinite: a picture that kills its process
would be tried for ever."""
_MAX_DEATHS_WHILE_STARTING = 3
_BLOCKS_TO_COME = 2
"""Of each actor, while blocks have their full size: Ray Data hands out so many ahead."""

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")
_Work = Callable[[Sequence[ItemT]], Sequence[ResultT]]


@dataclass(frozen=True)
class ActorWork(Generic[ItemT, ResultT]):
    """What actors do; it is pickled."""

    start: Callable[[], _Work[ItemT, ResultT]]
    """Called once an actor; what it returns is called with items and returns a result for each."""
    give_up: Callable[[ItemT], ResultT]
    """Returns the result of an item whose actors died; called where the results are used."""
    pool: ActorPool
    resources: ActorResources
    items_per_block: int
    """So many are done again where an actor dies."""
    items_per_last_block: int
    """Blocks become smaller towards the end, so that the actors end at about the same time."""


class _BlockActor:
    """The class that Ray Data makes actors of."""

    def __init__(self, start: Callable[[], _Work[object, object]]) -> None:
        self._memory = ExitStack()  # until the actor ends
        self._memory.enter_context(keep_freed_memory())
        self._work = start()

    def __call__(self, block: pa.Table) -> pa.Table:
        items = [pickle.loads(content) for content in block["content"].to_pylist()]
        try:
            results = [pickle.dumps(result) for result in self._work(items)]
        except Exception as error:  # raised where the results are used; Ray would drop the block
            return _make_block([-1], [pickle.dumps(f"{type(error).__name__}: {first_line(error)}")])
        return _make_block(block["number"].to_pylist(), results)


def do_on_actors(
    items: Iterable[ItemT], work: ActorWork[ItemT, ResultT]
) -> Iterator[list[ResultT]]:
    """Yield a result for each item, in any order, a block at a time.

    Raises:
        RuntimeError: the work raised an error.
        InputError: no actor can start, or the cluster is gone.
    """
    remaining = iter(items)
    while True:
        waiting = {
            number: pickle.dumps(item)
            for number, item in enumerate(islice(remaining, _ITEMS_PER_ROUND))
        }
        if not waiting:
            return
        yield from _do_round(waiting, work, _plan_blocks(len(waiting), work))
        # Alone, and again while some are done: what waits for an actor may die with it.
        num_before = 0
        while waiting and len(waiting) != num_before:
            num_before = len(waiting)
            yield from _do_round(waiting, work, itertools.repeat(1))
        if waiting:
            yield [work.give_up(pickle.loads(content)) for content in waiting.values()]


def _plan_blocks(num_items: int, work: ActorWork[ItemT, ResultT]) -> Iterator[int]:
    """Yield the sizes of blocks, the last of them smaller."""
    while num_items > 0:
        share = num_items // (_BLOCKS_TO_COME * work.pool.max_size)
        size = min(max(share, work.items_per_last_block), work.items_per_block)
        yield size
        num_items -= size


def _do_round(
    waiting: dict[int, bytes], work: ActorWork[ItemT, ResultT], sizes: Iterator[int]
) -> Iterator[list[ResultT]]:
    """Yield results, and take their items out of those that wait."""
    # Ray logs a traceback for each block that it drops; those are done again.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    remaining = iter(waiting.items())
    blocks = []
    for size in sizes:
        some = list(islice(remaining, size))
        if not some:
            break
        blocks.append(_make_block([number for number, _ in some], [item for _, item in some]))
    dataset = ray.data.from_blocks(blocks)
    context = dataset.context
    context.enable_progress_bars = False
    context.max_errored_blocks = -1
    context.max_consecutive_actor_init_deaths = _MAX_DEATHS_WHILE_STARTING
    # A cluster may take longer than the half hour of Ray Data to find room.
    context.execution_no_progress_timeout_s = -1
    with warnings.catch_warnings():
        # Ray Data has no other way to say it, until 2.64.
        warnings.simplefilter("ignore", ray.util.annotations.RayDeprecationWarning)
        done = dataset.map_batches(
            _BlockActor,
            fn_constructor_args=(work.start,),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(min_size=work.pool.min_size, max_size=work.pool.max_size),
            num_cpus=work.resources.num_cpus,
            num_gpus=work.resources.num_gpus,
            max_task_retries=_RETRIES,
        )
    try:
        for block in done.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            numbers = block["number"].to_pylist()
            results = [pickle.loads(content) for content in block["content"].to_pylist()]
            if -1 in numbers:
                raise RuntimeError(results[numbers.index(-1)])
            # A block that was done twice, as Ray may when a node dies, is used once.
            is_new = [waiting.pop(number, None) is not None for number in numbers]
            yield [result for result, new in zip(results, is_new, strict=True) if new]
    except ray.exceptions.RayError as error:
        raise InputError(
            f"the work on Ray ended ({first_line(error)}); what is there is kept: the same command"
            " goes on"
        ) from error


def _make_block(numbers: Sequence[int], contents: Sequence[bytes]) -> pa.Table:
    return pa.table({"number": pa.array(numbers, pa.int64()), "content": contents})
