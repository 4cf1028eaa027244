"""Pictures that agents name by their paths, in folders that the user allows."""

import os
import re
import stat
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Self

from flmm.errors import InputError, shorten

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
"""Begins an address such as file:///tmp/a.png, and a Windows path such as C:\\a.png."""


@dataclass(frozen=True)
class AllowedFolders:
    """Folders below which files may be read, without symbolic links on the way.

    Args:
        folders: absolute; they may themselves be symbolic links.
        max_bytes: of a file.
    """

    folders: tuple[Path, ...]
    max_bytes: int

    @classmethod
    def from_paths(cls, paths: Sequence[Path], max_bytes: int) -> Self:
        """Return the folders of a user's paths.

        Raises:
            InputError: one is no folder, or cannot be opened.
        """
        for path in paths:
            try:
                os.close(_open_folder(path))
            except (FileNotFoundError, NotADirectoryError) as error:
                raise InputError(
                    f"--root {str(path)!r} is no folder; give one with pictures"
                ) from error
        return cls(tuple(path.absolute() for path in paths), max_bytes)

    def read(self, name: str) -> bytes:
        """Return the content of the file with that path, absolute or relative to a folder.

        Raises:
            InputError: the path leads elsewhere, or there is no such file, or it is too large.
        """
        if not self.folders:
            raise InputError(
                "no paths are read here; send a data URL, or start flmm mcp with --root FOLDER"
            )
        parts = self._check_path(name)
        for folder, below in parts:
            with suppress(FileNotFoundError, NotADirectoryError):
                return self._read_below(folder, below, name)
        raise InputError(f"there is no picture {shorten(name)!r}; check the path")

    def _check_path(self, name: str) -> list[tuple[Path, tuple[str, ...]]]:
        """Return the folders and the parts below each that the path may mean."""
        if _ADDRESS.match(name) or "\\" in name or "\0" in name:
            raise InputError(
                f"{shorten(name)!r} is no path here; give one such as"
                f" {str(self.folders[0] / 'photo.jpg')!r}, or a data URL"
            )
        path = PurePath(name)
        if ".." in path.parts:
            raise InputError(f"the path {shorten(name)!r} has '..'; give it without")
        if not path.is_absolute():
            return [(folder, path.parts) for folder in self.folders]
        below = [
            (folder, path.relative_to(begin).parts)
            for folder in self.folders
            for begin in dict.fromkeys((folder, folder.resolve()))
            if path.is_relative_to(begin)
        ]
        if not below:
            listed = ", ".join(repr(str(folder)) for folder in self.folders)
            raise InputError(
                f"the path {shorten(name)!r} is not below {listed}; move the picture there, or"
                " send a data URL"
            )
        return below

    def _read_below(self, folder: Path, parts: tuple[str, ...], name: str) -> bytes:
        """Return a file's content; each part is opened by itself, so that none can be a link."""
        opened = _open_folder(folder)
        try:
            for part in parts:
                inner = self._open_in(opened, part, name)
                os.close(opened)
                opened = inner
            details = os.fstat(opened)
            if not stat.S_ISREG(details.st_mode):
                raise InputError(f"{shorten(name)!r} is no file; give a picture's path")
            if details.st_size > self.max_bytes:
                raise InputError(
                    f"{shorten(name)!r} has {details.st_size} bytes; give a picture of at most"
                    f" {self.max_bytes}"
                )
            with closing(os.fdopen(opened, "rb", closefd=False)) as file:
                return file.read(self.max_bytes + 1)
        finally:
            os.close(opened)

    def _open_in(self, folder: int, part: str, name: str) -> int:
        # Without waiting, since a named pipe would wait for its writer.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            return os.open(part, flags, dir_fd=folder)
        except (FileNotFoundError, NotADirectoryError):
            raise
        except OSError as error:
            with suppress(OSError):
                if stat.S_ISLNK(os.stat(part, dir_fd=folder, follow_symlinks=False).st_mode):
                    raise InputError(
                        f"the path {shorten(name)!r} has a symbolic link, which is not followed;"
                        " give the path of the picture itself"
                    ) from error
            raise InputError(
                f"{shorten(name)!r} cannot be read ({error.strerror}); check the file"
            ) from error


def _open_folder(folder: Path) -> int:
    try:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise InputError(
            f"--root {str(folder)!r} cannot be opened ({error.strerror}); give a folder that you"
            " may read"
        ) from error
