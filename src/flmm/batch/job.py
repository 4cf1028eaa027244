"""A whole batch on this machine, by the names of its models, source and results."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path, PurePath

import flmm
from flmm.answers.answer import Answer
from flmm.batch.answering import TaskAnswerer
from flmm.batch.run import BatchSummary, answer_items, store_results
from flmm.batch.settings import BatchSettings
from flmm.batch.sources.files import is_remote
from flmm.batch.sources.items import Item
from flmm.batch.sources.open import open_source
from flmm.batch.storage.open import ResultPlace, open_results
from flmm.batch.storage.records import Record
from flmm.grounding.freed_memory import keep_freed_memory
from flmm.grounding.grounder import Grounder


@dataclass(frozen=True)
class ModelNames:
    """The arguments of ``Grounder.from_pretrained``."""

    head: str | None = None
    lmm: str | None = None
    sam: str | None = None
    device: str | None = None
    dtype: str | None = None

    def load(self) -> Grounder:
        """Load the models.

        Raises:
            InputError: they cannot be loaded.
        """
        return Grounder.from_pretrained(
            self.head, lmm=self.lmm, sam=self.sam, device=self.device, dtype=self.dtype
        )


@dataclass(frozen=True)
class ModelDescription:
    """What models are, for the manifest of their results."""

    settings: dict[str, object]
    """As of ``BatchSettings.describe``."""
    model: str
    """As of ``Grounder``."""
    lmm: str
    """As of ``Grounder``."""


@dataclass(frozen=True)
class BatchJob:
    """What is asked of which pictures, with which models, and where results go."""

    source: str
    """As in ``open_source``."""
    out: Path
    """A name that ends with ``.jsonl``, or a folder."""
    settings: BatchSettings
    models: ModelNames = ModelNames()
    use_digests: bool = False
    """As in ``open_source``."""
    together: int = 8
    """As in ``run_batch``."""
    keep_failures: bool = False
    """As in ``run_batch``."""
    also: bool = False
    """As in ``open_results``."""
    shard: tuple[int, int] = (0, 1)
    """As in ``run_batch``."""
    overlays: Path | None = None
    """A folder, which is there, for a drawing of each answer."""

    def run(
        self, grounder: Grounder, on_progress: Callable[[BatchSummary], None] = lambda _: None
    ) -> tuple[BatchSummary, Path]:
        """Do the job, or what is left of it.

        Returns:
            The summary, and where the results are.

        Raises:
            InputError: as ``run_batch`` and ``open_results`` do.
        """
        answerer = TaskAnswerer(grounder, self.settings, self.together)
        with keep_freed_memory():
            return self.store(
                self._describe(grounder),
                lambda items: answer_items(answerer, items, self.save_overlays),
                on_progress,
            )

    def store(
        self,
        models: ModelDescription,
        answer: Callable[[Iterable[Item]], Iterator[Sequence[Record]]],
        on_progress: Callable[[BatchSummary], None],
    ) -> tuple[BatchSummary, Path]:
        """Do the job with models that are somewhere; as ``run`` and ``store_results``."""
        names = {
            "model": models.model,
            "lmm": models.lmm,
            "source": self.source if is_remote(self.source) else os.path.abspath(self.source),
            "flmm": flmm.__version__,
        }
        with open_results(
            ResultPlace(self.out), models.settings, names, also=self.also, shard=self.shard
        ) as (place, store):
            summary = store_results(
                open_source(self.source, self.settings.question, self.use_digests),
                store,
                answer,
                keep_failures=self.keep_failures,
                shard=self.shard,
                on_progress=on_progress,
            )
        return summary, place.path

    def describe_models(self) -> ModelDescription:
        """Load the models and say what they are.

        Raises:
            InputError: they cannot be loaded.
        """
        return self._describe(self.models.load())

    def run_alone(self, on_progress: Callable[[BatchSummary], None]) -> tuple[BatchSummary, Path]:
        """Load the models and do the job, as ``run``."""
        return self.run(self.models.load(), on_progress)

    def on_gpu(self, number: int) -> "BatchJob":
        """Return the job for a process that uses one GPU alone."""
        if self.models.device not in (None, "cuda"):
            return self
        return replace(self, models=replace(self.models, device=f"cuda:{number}"))

    def split(self, number: int, count: int) -> "BatchJob":
        """Return the ``number``-th of ``count`` parts of this job, in the same folder."""
        part, num_parts = self.shard
        return replace(self, shard=(part + number * num_parts, num_parts * count))

    def _describe(self, grounder: Grounder) -> ModelDescription:
        return ModelDescription(self.settings.describe(grounder), grounder.model, grounder.lmm)

    def save_overlays(self, item: Item, answers: Sequence[Answer]) -> None:
        """Draw an item's answers, where overlays are wanted."""
        if self.overlays is not None:
            for number, answer in enumerate(answers, 1):
                answer.save(self.overlays / _name_overlay(item, number))


def _name_overlay(item: Item, number: int) -> str:
    """Return a file name that no other item's answer has."""
    digest = blake2b(f"{item.id} {number}".encode(), digest_size=4).hexdigest()
    stem = re.sub(r"[^\w.-]+", "-", PurePath(item.id).stem)[-100:]
    return f"{stem}-{digest}.png"
