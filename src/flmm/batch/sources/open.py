"""The source that a path or address names."""

import os

from flmm.batch.sources.files import find_files, is_folder
from flmm.batch.sources.folder import FolderSource
from flmm.batch.sources.items import Source
from flmm.batch.sources.listing import ListSource
from flmm.user_input import check_text


def open_source(
    name: str | os.PathLike[str], question: str | None, use_digests: bool = False
) -> Source:
    """Return the items that a path or address stands for.

    Args:
        name: a folder of pictures, a JSONL list of them, Parquet files (``*.parquet``), or tar
            files of WebDataset (``*.tar``); an address, such as ``s3://bucket/pictures``, is read
            through fsspec.
        question: about each picture; needed for a folder, and for whatever asks nothing.
        use_digests: whether a changed picture is known by its content, which is then read in every
            run, and not by its size and time of change.

    Raises:
        InputError: there is no such source, or no question, or it is empty or no Unicode.
    """
    name = os.fspath(name)
    question = None if question is None else check_text("question", question)
    if is_folder(name):
        return FolderSource(name, question, use_digests)
    if name.endswith(".parquet"):
        from flmm.batch.sources.parquet import ParquetSource  # needs pyarrow

        return ParquetSource(find_files(name), question, use_digests)
    if name.endswith(".tar"):
        from flmm.batch.sources.webdataset import WebDatasetSource

        return WebDatasetSource(find_files(name), question, use_digests)
    return ListSource(name, question, use_digests)
