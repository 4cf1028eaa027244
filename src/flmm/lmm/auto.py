"""The list of LMM families, and loading an LMM with its family's adapter.

A family is a module of ``flmm.lmm.families`` with one class that has the literals ``model_types``
and ``hub_ids`` (``ClassVar[tuple[str, ...]]``) in its body. Listing reads the source instead of
importing it, so that ``flmm models`` and ``flmm --help`` do not wait for torch.
"""

import ast
import functools
import importlib
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import flmm.lmm.families as families_package
from flmm.lmm.model_type import expand_home, read_model_type

if TYPE_CHECKING:
    from flmm.lmm.base import LMMAdapter
    from flmm.lmm.placement import Placement


@dataclass(frozen=True)
class LMMFamily:
    """A supported LMM family: its adapter class and the ``model_type`` values that it reads."""

    module_name: str
    adapter_name: str
    model_types: tuple[str, ...]
    hub_ids: tuple[str, ...]
    """Some of its models on the hub."""


@functools.cache
def list_families() -> tuple[LMMFamily, ...]:
    """Return every family, sorted by module name; imports neither torch nor transformers."""
    families = []
    for entry in pkgutil.iter_modules(families_package.__path__):
        source = Path(families_package.__path__[0], f"{entry.name}.py").read_text(encoding="utf-8")
        for statement in ast.parse(source).body:
            if isinstance(statement, ast.ClassDef) and (
                types := _read_class_literal(statement, "model_types")
            ):
                hub_ids = _read_class_literal(statement, "hub_ids")
                families.append(
                    LMMFamily(
                        f"{families_package.__name__}.{entry.name}", statement.name, types, hub_ids
                    )
                )
    return tuple(sorted(families, key=lambda family: family.module_name))


def load_adapter_class(family: LMMFamily) -> "type[LMMAdapter]":
    """Import the family's module and return its adapter class."""
    adapter: type[LMMAdapter] = getattr(
        importlib.import_module(family.module_name), family.adapter_name
    )
    return adapter


def load_lmm(
    name: str, placement: "Placement | None" = None, revision: str | None = None
) -> "LMMAdapter":
    """Load the frozen LMM in a folder or hub repository.

    An LMM of no listed family is loaded by the generic adapter, if that supports it.

    Raises:
        InputError: there is no such model, or no adapter supports it.
    """
    name = expand_home(name)
    model_type = read_model_type(name, revision)
    for family in list_families():
        if model_type in family.model_types:
            return load_adapter_class(family).load(name, placement, revision)
    from flmm.lmm.generic import GenericAdapter

    return GenericAdapter.load(name, placement, revision)


def _read_class_literal(class_definition: ast.ClassDef, name: str) -> tuple[str, ...]:
    for statement in class_definition.body:
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and statement.target.id == name
            and statement.value is not None
        ):
            return tuple(ast.literal_eval(statement.value))
    return ()
