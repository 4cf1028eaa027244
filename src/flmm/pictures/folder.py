"""The picture files of a folder."""

from pathlib import Path

from flmm.pictures.reading import PICTURE_FORMATS

_PICTURE_SUFFIXES = frozenset(
    {f".{form.lower()}" for form in PICTURE_FORMATS} | {".jpg", ".tif", ".pgm", ".pbm", ".jp2"}
)


def find_pictures(folder: Path) -> list[Path]:
    """Return the picture files in a folder and its sub-folders, by their names, sorted."""
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in _PICTURE_SUFFIXES)
