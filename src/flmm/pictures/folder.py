"""The picture files of a folder."""

import os
from collections.abc import Iterator
from pathlib import Path

from flmm.pictures.reading import PICTURE_FORMATS

_PICTURE_SUFFIXES = frozenset(
    {f".{form.lower()}" for form in PICTURE_FORMATS} | {".jpg", ".tif", ".pgm", ".pbm", ".jp2"}
)


def find_pictures(folder: Path) -> list[Path]:
    """Return the picture files in a folder and its sub-folders, by their names, sorted."""
    return [Path(file) for file in iterate_pictures(folder)]


def iterate_pictures(folder: str | Path) -> Iterator[str]:
    """Yield what ``find_pictures`` returns; memory holds the names of one sub-folder at a time.

    Hidden files and folders are passed over, and what is neither a file nor a link; a link that
    leads nowhere is yielded, since somebody misses that picture.

    Raises:
        OSError: a folder cannot be read.
    """
    with os.scandir(folder) as scanned:
        entries = sorted(scanned, key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from iterate_pictures(entry.path)
        elif has_picture_suffix(entry.name) and (entry.is_file() or not os.path.exists(entry.path)):
            yield entry.path


def has_picture_suffix(name: str) -> bool:
    """Return whether a file's name ends as a picture's does."""
    return os.path.splitext(name)[1].lower() in _PICTURE_SUFFIXES
