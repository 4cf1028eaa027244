"""A batch on this machine: items that need a result are decoded, answered and stored.

What is asked of many pictures at once keeps a GPU busy: a token of one answer costs nearly as much
time as one of eight answers.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

from flmm.answers.answer import Answer
from flmm.batch.answering import Outcome, PictureTask, TaskAnswerer
from flmm.batch.decoding import DecodedItem, decode_ahead
from flmm.batch.overlap import map_side_by_side
from flmm.batch.pending import ItemCounts, PendingItems
from flmm.batch.settings import BatchSettings
from flmm.batch.sources.items import Item, Source
from flmm.batch.storage.index import ResultIndex
from flmm.batch.storage.records import Record, ResultStore
from flmm.batch.tasks import Task
from flmm.grounding.grounder import Grounder

_BATCHES_PER_WINDOW = 4


@dataclass(frozen=True)
class BatchSummary:
    """How far a batch is."""

    items: int
    """Of the source, and of this part of the work, so far."""
    new: int
    """Results of this run."""
    failed: int
    """Items that have a failure in the place of an answer, of this run or kept."""
    done: int
    """Items that have a result."""
    changed: int
    """Items whose picture or task changed since."""
    gone: int | None
    """Results of items that are no longer in the source, which are kept; None while unknown."""


def run_batch(
    grounder: Grounder,
    source: Source,
    store: ResultStore,
    settings: BatchSettings,
    *,
    together: int = 8,
    keep_failures: bool = False,
    shard: tuple[int, int] = (0, 1),
    on_progress: Callable[[BatchSummary], None] = lambda _: None,
    on_answers: Callable[[Item, Sequence[Answer]], None] = lambda *_: None,
) -> BatchSummary:
    """Store a result for each item that has none; a later run goes on where this one stops.

    Args:
        grounder: does the tasks.
        source: all items.
        store: of their results, with those of earlier runs.
        settings: how the tasks are done.
        together: so many tasks at a time; fewer where memory is short.
        keep_failures: whether failures of earlier runs are not tried again.
        shard: (I, N): only the Ith of N parts of the items, for N runs at once.
        on_progress: called when results are on the disk.
        on_answers: called with each item and its answers before they are stored.

    Returns:
        The whole batch's summary.

    Raises:
        InputError: the source cannot be read, or results cannot be written.
    """
    answerer = TaskAnswerer(grounder, settings, together)
    return store_results(
        source,
        store,
        lambda items: answer_items(answerer, items, on_answers),
        keep_failures=keep_failures,
        shard=shard,
        on_progress=on_progress,
    )


def store_results(
    source: Source,
    store: ResultStore,
    answer: Callable[[Iterable[Item]], Iterator[Sequence[Record]]],
    *,
    keep_failures: bool,
    shard: tuple[int, int],
    on_progress: Callable[[BatchSummary], None],
) -> BatchSummary:
    """Do what ``run_batch`` does, wherever the models are.

    Args:
        answer: yields the results of items, in any order, a few at a time.
        source, store, keep_failures, shard, on_progress: as in ``run_batch``.

    Raises:
        InputError: as ``run_batch`` does.
    """
    index = ResultIndex(store.states())
    pending = PendingItems(source, index, keep_failures, shard)
    new = failed = 0
    for records in answer(pending):
        store.append(records)
        new += len(records)
        failed += sum(record.error is not None for record in records)
        on_progress(_summarise(pending.counts, new, failed))
    counts = pending.counts
    replaced = index.num_rows - len(index) + counts.known - counts.skipped
    store.finish(drop_replaced=replaced > 0)
    # Other writers' items are not known here.
    gone = len(index) - counts.known if shard[1] == 1 else None
    return _summarise(counts, new, failed, gone)


def answer_items(
    answerer: TaskAnswerer,
    items: Iterable[Item],
    on_answers: Callable[[Item, Sequence[Answer]], None],
) -> Iterator[Sequence[Record]]:
    """Yield the results of items, a few at a time and nearly in order.

    Args:
        answerer: does their tasks.
        items: whose pictures are decoded ahead.
        on_answers: as in ``run_batch``.
    """
    # In no variable, since the traceback of an exception here would let them go on working.
    for batch, outcomes in map_side_by_side(
        partial(_answer, answerer), _decode_batches(items, answerer.most), answerer.device
    ):
        records = []
        for one, outcome in zip(batch, outcomes, strict=True):
            if not isinstance(outcome, str):
                on_answers(one.item, outcome)
            records.append(Record.of(one.item, _describe(one.item.task, outcome)))
        yield records


def _decode_batches(items: Iterable[Item], size: int) -> Iterator[Sequence[DecodedItem]]:
    for window in decode_ahead(items, _BATCHES_PER_WINDOW * size):
        yield from _group(window, size)


def _group(window: Sequence[DecodedItem], size: int) -> Iterator[Sequence[DecodedItem]]:
    """Yield batches of one kind of task, of pictures of like size, which need the least padding."""

    def kind_and_size(one: DecodedItem) -> tuple[str, int, int]:
        picture = one.picture
        height_and_width = (0, 0) if isinstance(picture, str) else (picture.height, picture.width)
        return one.item.task.kind, *height_and_width

    # Sorting keeps the order of equals.
    for _, same_kind in groupby(sorted(window, key=kind_and_size), lambda one: one.item.task.kind):
        items = list(same_kind)
        for first in range(0, len(items), size):
            yield items[first : first + size]


def _answer(answerer: TaskAnswerer, batch: Sequence[DecodedItem]) -> list[Outcome]:
    """Return the outcomes of a batch's items, also of those without a readable picture."""
    tasks = [
        PictureTask(one.picture, one.item.task) for one in batch if not isinstance(one.picture, str)
    ]
    answered = iter(answerer.answer(tasks))
    return [one.picture if isinstance(one.picture, str) else next(answered) for one in batch]


def _describe(task: Task, outcome: Outcome) -> dict[str, object]:
    if isinstance(outcome, str):
        # A message about a file whose name is no Unicode has surrogates.
        return {"error": outcome.encode("utf-8", "backslashreplace").decode()}
    answers = [answer.to_dict() for answer in outcome]
    return {"answer": answers[0]} if task.questions is None else {"answers": answers}


def _summarise(counts: ItemCounts, new: int, failed: int, gone: int | None = None) -> BatchSummary:
    return BatchSummary(
        items=counts.items,
        new=new,
        failed=failed + counts.skipped_failures,
        done=counts.skipped + new,
        changed=counts.changed,
        gone=gone,
    )
