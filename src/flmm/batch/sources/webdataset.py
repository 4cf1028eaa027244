"""Samples of WebDataset's tar files: ``key.jpg`` with ``key.json`` or ``key.txt``."""

import json
import posixpath
import tarfile
from collections.abc import Iterator, Sequence
from itertools import groupby

from pydantic import ValidationError

from flmm.batch.sources.files import PictureFile, open_file
from flmm.batch.sources.items import Item, Source, stamp_content
from flmm.batch.tasks import Task
from flmm.errors import InputError, describe_first_error
from flmm.pictures.folder import has_picture_suffix


class WebDatasetSource(Source):
    """The samples of tar files that are not compressed; ids are such as ``00000.tar/key``.

    A sample's JSON has the entries of a list's line, without ``image``; others in it are left
    alone. Where it asks nothing and the batch has no question, the sample's text is grounded.

    Args:
        files: paths or addresses.
        question: for samples that ask nothing.
        use_digests: whether a changed picture is known by its content, and not by its size and time
            of change in the tar.
    """

    def __init__(self, files: Sequence[str], question: str | None, use_digests: bool) -> None:
        self._files = files
        self._question = question
        self._use_digests = use_digests

    def __iter__(self) -> Iterator[Item]:
        for name in self._files:
            try:
                with (
                    open_file(name) as opened,
                    tarfile.open(fileobj=opened, mode="r:", errors="backslashreplace") as tar,
                ):
                    for key, members in groupby(filter(_is_visible_file, tar), _find_key):
                        yield from self._build_item(name, tar, key, list(members))
            except (OSError, tarfile.TarError) as error:
                raise InputError(
                    f"{name!r} is no tar file that can be read ({error}); copy it again"
                ) from error

    def count(self) -> None:
        return None

    def _build_item(
        self, name: str, tar: tarfile.TarFile, key: str, members: Sequence[tarfile.TarInfo]
    ) -> Iterator[Item]:
        by_suffix = {posixpath.splitext(one.name)[1].lower(): one for one in members}
        pictures = [one for one in members if has_picture_suffix(one.name)]
        if not pictures:
            return
        identity = f"{posixpath.basename(name)}/{key}"
        if len(pictures) > 1:
            names = " and ".join(repr(posixpath.basename(one.name)) for one in pictures)
            raise InputError(f"{identity!r} has several pictures, {names}; leave one of them there")
        content: dict[str, object] = {}
        if ".json" in by_suffix:
            content = self._read_json(tar, by_suffix[".json"], identity)
        if not content.keys() - {"id"} and self._question is None and ".txt" in by_suffix:
            content["text"] = _read(tar, by_suffix[".txt"]).decode("utf-8", "replace").strip()
        try:
            task = Task.model_validate({"image": identity, **content})
        except ValidationError as error:
            raise InputError(f"{identity!r}: {describe_first_error(error)}") from error
        task = task.complete(self._question, repr(identity))
        member = pictures[0]
        picture = PictureFile(name, (member.offset_data, member.size))
        stamp = f"{member.size} {member.mtime}"
        yield Item(
            id=task.id or identity,
            task=task,
            picture=picture,
            stamp=stamp_content(picture) if self._use_digests else stamp,
        )

    def _read_json(
        self, tar: tarfile.TarFile, member: tarfile.TarInfo, identity: str
    ) -> dict[str, object]:
        try:
            content = json.loads(_read(tar, member))
        except ValueError as error:
            raise InputError(f"{identity!r}: its JSON cannot be read ({error})") from error
        known = Task.model_fields.keys() - {"image"}
        if not isinstance(content, dict):
            return {}
        return {name: value for name, value in content.items() if name in known}


def _is_visible_file(member: tarfile.TarInfo) -> bool:
    return member.isfile() and not posixpath.basename(member.name).startswith(".")


def _find_key(member: tarfile.TarInfo) -> str:
    """Return a member's name up to the first dot of its last part, as WebDataset does."""
    folder, _, name = member.name.rpartition("/")
    return posixpath.join(folder, name.partition(".")[0])


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    opened = tar.extractfile(member)
    return b"" if opened is None else opened.read()
