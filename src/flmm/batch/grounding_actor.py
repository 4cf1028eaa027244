"""Batches of pictures in, answers out, for pipelines that people have: of Ray Data and others."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from flmm.batch.answering import TaskAnswerer
from flmm.batch.job import ModelNames
from flmm.batch.run import answer_items
from flmm.batch.settings import BatchSettings
from flmm.batch.sources.files import PictureFile
from flmm.batch.sources.items import Item
from flmm.batch.storage.records import Record
from flmm.batch.tasks import Task
from flmm.errors import InputError, describe_first_error
from flmm.grounding.freed_memory import keep_freed_memory
from flmm.pictures.reading import PictureLike

_TASK_ENTRIES = Task.model_fields.keys() - {"image", "id"}
_DEFAULT_MODELS = ModelNames()
_DEFAULT_SETTINGS = BatchSettings()

_Column = NDArray[np.generic]


class GroundingActor:
    """Answers batches of rows; its models are loaded once, when it is made.

    While it is there, its process keeps the memory that it frees for the next batch, for seconds.

    For example, with Ray Data, where each of two actors has a GPU of its own::

        pictures = ray.data.read_images("s3://bucket/pictures", include_paths=True)
        answers = pictures.map_batches(
            GroundingActor,
            fn_constructor_kwargs={"settings": BatchSettings("What is in the picture?")},
            batch_size=32, num_gpus=1, compute=ray.data.ActorPoolStrategy(size=2),
        )

    Args:
        models: which.
        settings: with the question about rows that ask nothing.
        together: so many tasks at a time; fewer where memory is short.

    Raises:
        InputError: the models cannot be loaded.
    """

    def __init__(
        self,
        models: ModelNames = _DEFAULT_MODELS,
        settings: BatchSettings = _DEFAULT_SETTINGS,
        together: int = 8,
    ) -> None:
        self._settings = settings
        self._memory = ExitStack()  # until this is deleted
        self._memory.enter_context(keep_freed_memory())
        self._answerer = TaskAnswerer(models.load(), settings, together)

    def __call__(self, batch: Mapping[str, _Column]) -> dict[str, _Column]:
        """Return the batch with an ``answer`` and an ``error`` for each row.

        Args:
            batch: columns of n rows: ``image`` has paths, addresses, the content of files, uint8
                arrays, or ``{bytes, path}``; and, where they are there and not None, one of
                ``question``, ``questions`` and ``phrases``, or ``text``, as a list's lines have
                them. Other columns are left alone.

        Returns:
            The columns, with ``answer`` (n,): the JSON of an answer, of several ``questions`` a
            list of them, None where there is an error; and ``error`` (n,): why, or None.

        Raises:
            InputError: there is no column ``image``.
            Exception: flmm itself failed many times in a row.
        """
        if "image" not in batch:
            raise InputError("the batch has no column 'image'; name that of the pictures so")
        num_rows = len(batch["image"])
        answers, errors = (np.full(num_rows, None, dtype=object) for _ in range(2))
        items = []
        for row in range(num_rows):
            try:
                items.append(self._build_item(batch, row))
            except InputError as error:
                errors[row] = str(error)
        for records in answer_items(self._answerer, items, lambda *_: None):
            for record in records:
                answers[int(record.id)] = _take_answer(record)
                errors[int(record.id)] = record.error
        return {**batch, "answer": answers, "error": errors}

    def _build_item(self, batch: Mapping[str, _Column], row: int) -> Item:
        content = {
            name: _to_python(batch[name][row])
            for name in _TASK_ENTRIES & batch.keys()
            if batch[name][row] is not None
        }
        image = _to_python(batch["image"][row])
        name = image if isinstance(image, str) else f"row {row}"
        try:
            task = Task.model_validate({"image": name, **content})
        except ValidationError as error:
            raise InputError(f"{name!r}: {describe_first_error(error)}") from error
        task = task.complete(self._settings.question, repr(name))
        return Item(str(row), task, _PictureInRow(image, name), stamp="")


@dataclass(frozen=True, eq=False)
class _PictureInRow:
    """A picture in a column."""

    value: object
    name: str

    def load(self) -> PictureLike:
        value = self.value
        if isinstance(value, dict):
            value = value.get("path") if value.get("bytes") is None else value["bytes"]
        if isinstance(value, str):
            return PictureFile(value).load()
        if isinstance(value, bytes | np.ndarray):
            return value
        raise InputError(f"{self.name!r} has no picture; give a path, its content or an array")


def _to_python(value: object) -> object:
    """Return a column's value as a list's line has it; an array that is a picture, as it is."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.ndim == 1:
        return tuple(_to_python(one) for one in value)
    return value


def _take_answer(record: Record) -> str | None:
    content = json.loads(record.line)
    answer = content.get("answer", content.get("answers"))
    return None if answer is None else json.dumps(answer)
