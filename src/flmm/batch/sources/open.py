"""The source that a path names."""

from pathlib import Path

from flmm.batch.sources.folder import FolderSource
from flmm.batch.sources.items import Source
from flmm.batch.sources.listing import ListSource


def open_source(name: str, question: str | None, use_digests: bool = False) -> Source:
    """Return the items that a path stands for.

    Args:
        name: a folder of pictures, or a list of them.
        question: about each picture; needed for a folder, and for list lines that ask nothing.
        use_digests: whether a changed picture is known by its content, which is then read in every
            run, and not by its size and time of change.

    Raises:
        InputError: there is no such source, or no question.
    """
    path = Path(name)
    if path.is_dir():
        return FolderSource(path, question, use_digests)
    return ListSource(path, question, use_digests)
