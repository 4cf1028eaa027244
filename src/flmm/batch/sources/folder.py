"""A folder of pictures, with the same question about each."""

from collections.abc import Iterator

from flmm.batch.sources.files import PictureFile, iterate_picture_files, stamp_file
from flmm.batch.sources.items import Item, Source, stamp_content
from flmm.batch.tasks import Task, to_unicode
from flmm.errors import InputError


class FolderSource(Source):
    """The pictures of a folder and its sub-folders, without hidden ones; ids are relative paths.

    Args:
        folder: of the pictures.
        question: about each.
        use_digests: whether a changed picture is known by its content.

    Raises:
        InputError: there is no question.
    """

    def __init__(self, folder: str, question: str | None, use_digests: bool) -> None:
        if question is None:
            raise InputError(f"what is asked about the pictures of {folder!r}? give a QUESTION")
        self._folder = folder
        self._question = question
        self._use_digests = use_digests

    def __iter__(self) -> Iterator[Item]:
        for path, name, stamp in iterate_picture_files(self._folder):
            identity = to_unicode(name)
            picture = PictureFile(path)
            yield Item(
                id=identity,
                task=Task(image=identity, question=self._question),
                picture=picture,
                stamp=stamp_content(picture) if self._use_digests else stamp or stamp_file(path),
            )

    def count(self) -> int:
        return sum(1 for _ in iterate_picture_files(self._folder))
