"""The LMM families, each in its own file, found by looking and imported only when used.

A family is a module of this package with one class that has the literals ``model_types`` and
``hub_ids`` (``ClassVar[tuple[str, ...]]``) in its body. Listing reads the source instead of
importing it, because ``flmm models`` and ``flmm --help`` must not wait for torch.
"""

import ast
import functools
import importlib
import json
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flmm.errors import InputError

if TYPE_CHECKING:
    from flmm.lmm.base import LMMAdapter
    from flmm.lmm.placement import Placement


@dataclass(frozen=True)
class Family:
    """One supported LMM family: the ``model_type`` values of its configurations, and its class."""

    module: str
    adapter: str
    model_types: tuple[str, ...]
    hub_ids: tuple[str, ...]
    """Some of its models on the hub."""


@functools.cache
def families() -> tuple[Family, ...]:
    """Every family in this package, by module name; imports neither torch nor transformers."""
    found = []
    for entry in pkgutil.iter_modules(__path__):
        source = Path(__path__[0], f"{entry.name}.py").read_text(encoding="utf-8")
        for statement in ast.parse(source).body:
            if isinstance(statement, ast.ClassDef) and (
                types := _declared(statement, "model_types")
            ):
                hub_ids = _declared(statement, "hub_ids")
                found.append(Family(f"{__name__}.{entry.name}", statement.name, types, hub_ids))
    return tuple(sorted(found, key=lambda family: family.module))


def adapter_class(family: Family) -> "type[LMMAdapter]":
    """The family's adapter class, imported now."""
    adapter: type[LMMAdapter] = getattr(importlib.import_module(family.module), family.adapter)
    return adapter


def load_lmm(
    name: str, placement: "Placement | None" = None, revision: str | None = None
) -> "LMMAdapter":
    """The frozen LMM in a folder or hub repository, ready to be recorded.

    An LMM of no family here is read by the generic adapter where that can.

    Raises:
        InputError: there is no such model, or flmm cannot read it.
    """
    if Path(name).expanduser().is_dir():
        name = str(Path(name).expanduser())
    model_type = read_model_type(name, revision)
    for family in families():
        if model_type in family.model_types:
            return adapter_class(family).load(name, placement, revision)
    from flmm.lmm.generic import GenericAdapter

    return GenericAdapter.load(name, placement, revision)


def read_model_type(name: str, revision: str | None = None) -> str:
    """The ``model_type`` in the model's ``config.json``, without importing transformers.

    Raises:
        InputError: the configuration cannot be found or names no model type.
    """
    path = _config_path(name, revision)
    try:
        model_type = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(
            f"LMM {name!r}: {path} is not a model configuration; save the model there again"
        ) from error
    if not isinstance(model_type, str):
        raise InputError(
            f"LMM {name!r}: {path} has no model_type;"
            " name a transformers model (a head goes in --model, the LMM in --lmm)"
        )
    return model_type


def _config_path(name: str, revision: str | None) -> Path:
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InputError(
                f"LMM {name!r} is a folder without config.json; give a folder made by"
                " save_pretrained, or a hub id"
            )
        return folder / "config.json"
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(name, "config.json", revision=revision))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        at_revision = f" at revision {revision!r}" if revision else ""
        raise InputError(
            f"LMM {name!r}{at_revision} is neither a folder here nor a model that the hub gives;"
            " check the spelling, your network and your access"
        ) from error


def _declared(statement: ast.ClassDef, name: str) -> tuple[str, ...]:
    for line in statement.body:
        if (
            isinstance(line, ast.AnnAssign)
            and isinstance(line.target, ast.Name)
            and line.target.id == name
            and line.value is not None
        ):
            return tuple(ast.literal_eval(line.value))
    return ()
