"""The type and sizes read from every family's config.json are those of the loaded model."""

from dataclasses import replace
from pathlib import Path

from flmm.lmm.architecture import LMMArchitecture, read_architecture
from flmm.lmm.base import LMMAdapter
from flmm.lmm.generic.adapter import GenericAdapter


def test_architecture_in_the_configuration(adapter: LMMAdapter, tmp_path: Path) -> None:
    adapter.model.config.save_pretrained(tmp_path)
    expected = LMMArchitecture.of(adapter)
    if isinstance(adapter, GenericAdapter):
        # How a type without a family file cuts pictures up is known when it is loaded.
        expected = replace(expected, views=None)
    assert read_architecture(str(tmp_path)) == expected
