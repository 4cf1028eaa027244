"""Families of models, each a file of a package, listed without importing it.

A family is a module with one class that has the literals ``model_types`` and ``hub_ids``
(``ClassVar[tuple[str, ...]]``) in its body. Listing reads the source, so that ``flmm models`` and
``flmm --help`` do not wait for torch.
"""

import ast
import functools
import importlib
import pkgutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ModelFamily:
    """A supported family of models: its class and the ``model_type`` values that it reads."""

    module_name: str
    class_name: str
    model_types: tuple[str, ...]
    hub_ids: tuple[str, ...]
    """Some of its models on the hub."""

    def load_class(self) -> object:
        """Import the family's module and return its class."""
        return getattr(importlib.import_module(self.module_name), self.class_name)


@functools.cache
def list_families_in(package_name: str) -> tuple[ModelFamily, ...]:
    """Return every family of a package, sorted by module name; imports neither torch nor them."""
    folder = importlib.import_module(package_name).__path__[0]
    families = []
    for entry in pkgutil.iter_modules([folder]):
        source = Path(folder, f"{entry.name}.py").read_text(encoding="utf-8")
        for statement in ast.parse(source).body:
            if isinstance(statement, ast.ClassDef) and (
                types := _read_class_literal(statement, "model_types")
            ):
                hub_ids = _read_class_literal(statement, "hub_ids")
                module_name = f"{package_name}.{entry.name}"
                families.append(ModelFamily(module_name, statement.name, types, hub_ids))
    return tuple(sorted(families, key=lambda family: family.module_name))


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
