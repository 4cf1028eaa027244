"""A result as it is stored, and where results are stored."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from flmm.batch.sources.items import Item
from flmm.errors import InputError


@dataclass(frozen=True)
class ResultState:
    """What a later run needs to know of a result."""

    id: str
    version: str
    """``Item.version`` of the item that it is of."""
    error: str | None
    """Why there is no answer."""


@dataclass(frozen=True)
class Record(ResultState):
    """A result: the answers to an item, or the error."""

    line: str
    """One line of JSON: ``id``, ``version``, ``task``, and ``answer``, ``answers`` (of several
    questions) or ``error``."""

    @classmethod
    def of(cls, item: Item, content: Mapping[str, object]) -> Self:
        """Build an item's record; ``content`` has one of the last three."""
        task = item.task.model_dump(exclude_none=True, exclude={"id"})
        # In ASCII, since a message about a file's name need not be valid Unicode.
        line = json.dumps({"id": item.id, "version": item.version, "task": task, **content})
        error = content.get("error")
        return cls(item.id, item.version, None if error is None else str(error), line)

    @classmethod
    def parse(cls, line: str) -> Self:
        """Read a record's line.

        Raises:
            ValueError: it is none.
        """
        content = json.loads(line)
        try:
            identity, version, error = content["id"], content["version"], content.get("error")
        except (TypeError, KeyError, AttributeError) as missing:
            raise ValueError("no id or version") from missing
        return cls(str(identity), str(version), None if error is None else str(error), line)


class ResultStore(ABC):
    """Results on disk, of one writer at a time or of several that have no item in common."""

    @abstractmethod
    def states(self) -> Iterator[ResultState]:
        """Yield what is stored, the oldest first; of two of one id, the later one counts."""

    @abstractmethod
    def records(self) -> Iterator[Record]:
        """Yield the results as ``states`` does, whole."""

    @abstractmethod
    def append(self, records: Sequence[Record]) -> None:
        """Store results; they are on the disk when this returns.

        Raises:
            InputError: the disk is full, or the place is gone.
        """

    @abstractmethod
    def finish(self, *, drop_replaced: bool) -> None:
        """Bring this writer's results into their final form.

        Args:
            drop_replaced: whether to look for ids that are there twice, and keep the later one.

        Raises:
            InputError: as ``append`` does.
        """


def changed_error(path: Path) -> InputError:
    """Return the error of results that were rewritten by the end of a batch."""
    return InputError(
        f"{str(path)!r} was tidied up by a batch that ended while it was read; run this again"
    )


def storage_error(place: Path, error: OSError) -> InputError:
    """Return what is said where results cannot be written."""
    return InputError(
        f"--out {str(place)!r} cannot be written ({error.strerror}); what is there is kept: the"
        " same command goes on, or choose another place"
    )
