"""A folder of pictures, with the same question about each."""

from collections.abc import Iterator
from pathlib import Path

from flmm.batch.sources.items import Item, PictureFile, Source, stamp_content, stamp_file
from flmm.batch.tasks import Task, to_unicode
from flmm.errors import InputError
from flmm.pictures.folder import iterate_pictures


class FolderSource(Source):
    """The pictures of a folder and its sub-folders, without hidden ones; ids are relative paths.

    Args:
        folder: of the pictures.
        question: about each.
        use_digests: whether a changed picture is known by its content.

    Raises:
        InputError: there is no question.
    """

    def __init__(self, folder: Path, question: str | None, use_digests: bool) -> None:
        if question is None:
            raise InputError(
                f"what is asked about the pictures of {str(folder)!r}? give a QUESTION"
            )
        self._folder = folder
        self._question = question
        self._use_digests = use_digests

    def __iter__(self) -> Iterator[Item]:
        for file in self._iterate_files():
            name = to_unicode(str(file.relative_to(self._folder)))
            picture = PictureFile(file)
            yield Item(
                id=name,
                task=Task(image=name, question=self._question),
                picture=picture,
                stamp=stamp_content(picture) if self._use_digests else stamp_file(file),
            )

    def count(self) -> int:
        return sum(1 for _ in self._iterate_files())

    def _iterate_files(self) -> Iterator[Path]:
        try:
            yield from iterate_pictures(self._folder)
        except OSError as error:
            raise InputError(
                f"{to_unicode(str(error.filename))!r} cannot be read ({error.strerror}); check the"
                " folder"
            ) from error
