"""The manifest of results: what they were made with."""

import json
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path

from flmm.atomic_write import write_file_atomically
from flmm.errors import InputError, shorten

MANIFEST_NAME = "manifest.json"


def compute_fingerprint(settings: Mapping[str, object]) -> str:
    """Return 8 hexadecimal digits that change with any setting."""
    return blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=4).hexdigest()


def read_manifest(folder: Path) -> dict[str, object] | None:
    """Return the settings of results; None where there is no manifest.

    Raises:
        InputError: it cannot be read.
    """
    content = _read(folder)
    return None if content is None else content[0]


def read_source(folder: Path) -> str | None:
    """Return where the pictures of results were; None where it is not known.

    Raises:
        InputError: the manifest cannot be read.
    """
    content = _read(folder)
    source = None if content is None else content[1].get("source")
    return source if isinstance(source, str) else None


def _read(folder: Path) -> tuple[dict[str, object], dict[str, object]] | None:
    """Return a manifest's settings and names; None where there is no manifest."""
    file = folder / MANIFEST_NAME
    if not file.exists():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return dict(content.pop("settings")), content
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{str(file)!r} is no manifest of results; choose another --out"
        ) from error


def write_manifest(
    folder: Path, settings: Mapping[str, object], names: Mapping[str, object]
) -> None:
    """Write the manifest.

    Args:
        folder: of the manifest.
        settings: what results depend on.
        names: what else a reader may want to know.

    Raises:
        InputError: it cannot be written.
    """
    content = {"settings": settings, **names}
    write_file_atomically(folder / MANIFEST_NAME, f"{json.dumps(content, indent=2)}\n".encode())


def describe_difference(before: Mapping[str, object], now: Mapping[str, object]) -> str:
    """Return in words what differs, or an empty text."""
    return ", ".join(
        f"{name} was {_quote(before.get(name))} and is {_quote(now.get(name))}"
        for name in dict.fromkeys([*before, *now])
        if before.get(name) != now.get(name)
    )


def _quote(value: object) -> str:
    return shorten(json.dumps(value, ensure_ascii=False))
