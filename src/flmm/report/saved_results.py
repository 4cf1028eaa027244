"""Results on disk as JSON, measured again only when what they depend on has changed."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from flmm.atomic_write import write_file_atomically

Results = TypeVar("Results")


def load_or_measure(
    file: Path,
    results_type: type[Results],
    key: Mapping[str, str],
    measure: Callable[[], Results],
) -> Results:
    """Return the results in a file; measure and save them unless they are there for this key.

    Args:
        file: its folder exists.
        results_type: a frozen dataclass.
        key: all that the results depend on.
        measure: returns them.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["made for"] == key:
            return TypeAdapter(results_type).validate_python(content["results"])
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        pass  # It is missing, or damaged.
    results = measure()
    save_results(file, results, key)
    return results


def save_results(file: Path, results: object, key: Mapping[str, str]) -> None:
    """Write a frozen dataclass to a file, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    content = {"made for": dict(key), "results": asdict(results)}  # type: ignore[call-overload]
    write_file_atomically(file, json.dumps(content, indent=1).encode())
