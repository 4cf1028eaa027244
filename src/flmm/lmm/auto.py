"""Find the adapter for an LMM: the families, each in its own file, imported only when used.

A family is a module of ``flmm.lmm.families`` with one class that has the literals ``model_types``
and ``hub_ids`` (``ClassVar[tuple[str, ...]]``) in its body. Listing reads the source instead of
importing it, because ``flmm models`` and ``flmm --help`` must not wait for torch.
"""

import ast
import functools
import importlib
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import flmm.lmm.families as families_package
from flmm.lmm.model_type import read_model_type

if TYPE_CHECKING:
    from flmm.lmm.base import LMMAdapter
    from flmm.lmm.placement import Placement


@dataclass(frozen=True)
class LMMFamily:
    """One supported LMM family: the ``model_type`` values of its configurations, and its class."""

    module_name: str
    adapter_name: str
    model_types: tuple[str, ...]
    hub_ids: tuple[str, ...]
    """Some of its models on the hub."""


@functools.cache
def list_families() -> tuple[LMMFamily, ...]:
    """Every family in this package, by module name; imports neither torch nor transformers."""
    found = []
    for entry in pkgutil.iter_modules(families_package.__path__):
        source = Path(families_package.__path__[0], f"{entry.name}.py").read_text(encoding="utf-8")
        for statement in ast.parse(source).body:
            if isinstance(statement, ast.ClassDef) and (
                types := _read_class_literal(statement, "model_types")
            ):
                hub_ids = _read_class_literal(statement, "hub_ids")
                found.append(
                    LMMFamily(
                        f"{families_package.__name__}.{entry.name}", statement.name, types, hub_ids
                    )
                )
    return tuple(sorted(found, key=lambda family: family.module_name))


def load_adapter_class(family: LMMFamily) -> "type[LMMAdapter]":
    """The family's adapter class, imported now."""
    adapter: type[LMMAdapter] = getattr(
        importlib.import_module(family.module_name), family.adapter_name
    )
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
    for family in list_families():
        if model_type in family.model_types:
            return load_adapter_class(family).load(name, placement, revision)
    from flmm.lmm.generic import GenericAdapter

    return GenericAdapter.load(name, placement, revision)


def _read_class_literal(class_definition: ast.ClassDef, name: str) -> tuple[str, ...]:
    for line in class_definition.body:
        if (
            isinstance(line, ast.AnnAssign)
            and isinstance(line.target, ast.Name)
            and line.target.id == name
            and line.value is not None
        ):
            return tuple(ast.literal_eval(line.value))
    return ()
