"""The types of transformers that read pictures and write text, and what flmm does with each.

``supported_types.json`` has what ``scripts/check_families.py`` found out with a small random model
of each type. Importing this file imports neither torch nor transformers.
"""

import ast
import json
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

_MAPPING_NAME = "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES"

Reader = Literal["own file", "generic adapter", "text only", "none"]
"""Who reads a type; "text only": it chats, and has no masks."""


@dataclass(frozen=True)
class SupportedType:
    """What flmm does with one ``model_type`` of transformers."""

    model_type: str
    example: str | None
    """A model of the type on the hub."""
    reader: Reader
    verified: bool
    """Whether its small random model passes all contract tests, or those of text alone."""
    views: int | None = None
    """Grids of image tokens for each picture; None if it was never read."""
    recorded: str | None = None
    """Which layers' attention is recorded, in words."""
    needs_torchvision: bool = False
    """Whether transformers has its image processor for torchvision only."""
    reason: str | None = None
    """Why it is not verified, or has no masks, on one line."""


@dataclass(frozen=True)
class SupportedTypes:
    """The content of ``supported_types.json``."""

    transformers: str
    """The version of which these are all types."""
    types: tuple[SupportedType, ...]
    """Sorted by name."""


def read_supported_types() -> SupportedTypes:
    """Read what is known of each type, of the version of transformers that was tried."""
    content = json.loads(
        files("flmm.lmm").joinpath("supported_types.json").read_text(encoding="utf-8")
    )
    types = tuple(SupportedType(**entry) for entry in content["types"])
    return SupportedTypes(content["transformers"], types)


def list_supported_types() -> SupportedTypes:
    """Return what is known of each type of the installed transformers.

    Types that were never tried are those of a newer version: the generic adapter will try them.
    """
    known = {entry.model_type: entry for entry in read_supported_types().types}
    return SupportedTypes(
        version("transformers"),
        tuple(
            known.get(name)
            or SupportedType(name, None, "generic adapter", False, reason="newer than flmm's tests")
            for name in sorted(list_installed_types())
        ),
    )


def list_installed_types() -> tuple[str, ...]:
    """Return every type of the installed transformers that reads pictures and writes text.

    The source is read, since importing the mapping would import torch.
    """
    specification = find_spec("transformers")
    assert specification is not None
    assert specification.origin is not None
    source = Path(specification.origin).parent / "models" / "auto" / "modeling_auto.py"
    for statement in ast.parse(source.read_text(encoding="utf-8")).body:
        if (
            isinstance(statement, ast.Assign)
            and isinstance(statement.targets[0], ast.Name)
            and statement.targets[0].id == _MAPPING_NAME
            and isinstance(statement.value, ast.Call)
        ):
            return tuple(dict(ast.literal_eval(statement.value.args[0])))
    raise AssertionError(f"transformers has no {_MAPPING_NAME} as a literal")
