"""Samples of WebDataset's tar files: ``key.jpg`` with ``key.json`` or ``key.txt``."""

import json
import posixpath
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pydantic import ValidationError

from flmm.batch.sources.files import PictureFile, open_file
from flmm.batch.sources.items import Item, Source, stamp_content
from flmm.batch.tasks import Task
from flmm.errors import InputError, describe_first_error
from flmm.pictures.folder import has_picture_suffix

_TASK_ENTRIES = Task.model_fields.keys() - {"image"}


@dataclass
class _Sample:
    """The files of one key, wherever they are in the tar."""

    pictures: list[tarfile.TarInfo] = field(default_factory=list)
    entries: dict[str, object] = field(default_factory=dict)
    """Of its JSON."""
    text: str | None = None
    problem: InputError | None = None
    """Why its JSON cannot be read; without a picture it does not matter."""


class WebDatasetSource(Source):
    """The samples of tar files that are not compressed; ids are such as ``00000.tar/key``.

    A sample's files need not follow each other. Its JSON has the entries of a list's line, without
    ``image``; others in it are left alone. Where it asks nothing and the batch has no question, the
    sample's text is grounded.

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
                    samples = self._read_samples(name, tar)
            except (OSError, tarfile.TarError) as error:
                raise InputError(
                    f"{name!r} is no tar file that can be read ({error}); copy it again"
                ) from error
            for key, sample in samples.items():
                if sample.pictures:
                    yield self._build_item(name, key, sample)

    def count(self) -> None:
        return None

    def _read_samples(self, name: str, tar: tarfile.TarFile) -> dict[str, _Sample]:
        """Return a tar's samples by their keys; all of it, since a key's files may lie apart."""
        samples: dict[str, _Sample] = {}
        for member in filter(_is_visible_file, tar):
            key = _find_key(member)
            sample = samples.setdefault(key, _Sample())
            suffix = posixpath.splitext(member.name)[1].lower()
            if has_picture_suffix(member.name):
                sample.pictures.append(member)
            elif suffix == ".json":
                try:
                    sample.entries = _parse_json(_read(tar, member), _name_sample(name, key))
                except InputError as error:
                    sample.problem = error
            elif suffix == ".txt" and self._question is None:
                sample.text = _read(tar, member).decode("utf-8", "replace").strip()
        return samples

    def _build_item(self, name: str, key: str, sample: _Sample) -> Item:
        if sample.problem is not None:
            raise sample.problem
        identity = _name_sample(name, key)
        if len(sample.pictures) > 1:
            names = " and ".join(repr(posixpath.basename(one.name)) for one in sample.pictures)
            raise InputError(f"{identity!r} has several pictures, {names}; leave one of them there")
        content: dict[str, object] = {"image": identity, **sample.entries}
        if not sample.entries.keys() - {"id"} and sample.text is not None:
            content["text"] = sample.text
        try:
            task = Task.model_validate(content)
        except ValidationError as error:
            raise InputError(f"{identity!r}: {describe_first_error(error)}") from error
        task = task.complete(self._question, repr(identity))
        member = sample.pictures[0]
        picture = PictureFile(name, (member.offset_data, member.size))
        stamp = f"{member.size} {member.mtime}"
        return Item(
            id=task.id or identity,
            task=task,
            picture=picture,
            stamp=stamp_content(picture) if self._use_digests else stamp,
        )


def _name_sample(tar: str, key: str) -> str:
    return f"{posixpath.basename(tar)}/{key}"


def _parse_json(content: bytes, identity: str) -> dict[str, object]:
    """Return a sample's entries that a list's line may have, too."""
    try:
        entries = json.loads(content)
    except ValueError as error:
        raise InputError(f"{identity!r}: its JSON cannot be read ({error})") from error
    if not isinstance(entries, dict):
        return {}
    return {name: value for name, value in entries.items() if name in _TASK_ENTRIES}


def _is_visible_file(member: tarfile.TarInfo) -> bool:
    return member.isfile() and not posixpath.basename(member.name).startswith(".")


def _find_key(member: tarfile.TarInfo) -> str:
    """Return a member's name up to the first dot of its last part, as WebDataset does."""
    folder, _, name = member.name.rpartition("/")
    return posixpath.join(folder, name.partition(".")[0])


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    opened = tar.extractfile(member)
    return b"" if opened is None else opened.read()
