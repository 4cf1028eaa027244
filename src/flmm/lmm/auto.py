"""The list of LMM families, and loading an LMM with its family's adapter."""

from pathlib import Path
from typing import TYPE_CHECKING, cast

from flmm.lmm.model_families import ModelFamily, list_families_in
from flmm.lmm.model_type import expand_home, read_model_type
from flmm.user_input import resolve_model

if TYPE_CHECKING:
    from flmm.lmm.base import LMMAdapter
    from flmm.lmm.placement import Placement


def list_families() -> tuple[ModelFamily, ...]:
    """Return every family, sorted by module name; imports neither torch nor transformers."""
    return list_families_in("flmm.lmm.families")


def load_adapter_class(family: ModelFamily) -> "type[LMMAdapter]":
    """Import the family's module and return its adapter class."""
    return cast("type[LMMAdapter]", family.load_class())


def load_lmm(
    name: str | Path, placement: "Placement | None" = None, revision: str | None = None
) -> "LMMAdapter":
    """Load the frozen LMM in a folder or hub repository.

    An LMM of no listed family is loaded by the generic adapter, if that supports it.

    Args:
        name: a folder, a hub id, or "embedded:lmm".
        placement: its device and dtype.
        revision: of a hub id.

    Raises:
        InputError: there is no such model, or no adapter supports it.
    """
    name = expand_home(resolve_model(str(name)))
    model_type = read_model_type(name, revision)
    for family in list_families():
        if model_type in family.model_types:
            return load_adapter_class(family).load(name, placement, revision)
    from flmm.lmm.generic.adapter import GenericAdapter

    return GenericAdapter.load(name, placement, revision)
