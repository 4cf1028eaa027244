"""An item of a batch: an id, a picture that is not read yet, and what is asked about it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

from flmm.batch.tasks import Task
from flmm.errors import InputError
from flmm.pictures.reading import PictureLike


class PictureSource(Protocol):
    """A picture that is read when it is needed, in any thread."""

    def load(self) -> PictureLike:
        """Return what ``read_picture`` takes.

        Raises:
            InputError: it cannot be read.
        """


class StoredPicture(PictureSource, Protocol):
    """A picture in a file or in a column of one, whose content tells its version."""

    def read_bytes(self) -> bytes:
        """Return the file's content.

        Raises:
            InputError: it cannot be read.
        """


@dataclass(frozen=True)
class Item:
    """An item of a batch."""

    id: str
    """Names the result."""
    task: Task
    picture: PictureSource
    stamp: str
    """What changes with the picture: size and time of change, or a digest."""

    # Not a cached property: its lock would take as long as the digest, which is used once or twice.
    @property
    def version(self) -> str:
        """16 hexadecimal digits that change with the picture and with what is asked about it."""
        task = self.task
        # Not as JSON, which would take a third of the time in which a run finds what is left.
        what = (self.stamp, task.image, task.question, task.questions, task.text, task.phrases)
        return blake2b(repr(what).encode(), digest_size=8).hexdigest()


class Source(ABC):
    """The items of a batch, in an order that need not be the same in the next run."""

    @abstractmethod
    def __iter__(self) -> Iterator[Item]:
        """Yield the items; memory holds few of them at a time.

        Raises:
            InputError: the source, or a line of it, cannot be read.
        """

    @abstractmethod
    def count(self) -> int | None:
        """Check the source and return the number of items; None where that would take long.

        Raises:
            InputError: as iteration does.
        """


def stamp_content(picture: StoredPicture) -> str:
    """Return a digest of a picture's content, or "missing"."""
    try:
        return blake2b(picture.read_bytes(), digest_size=16).hexdigest()
    except InputError:
        return "missing"
