"""The type and sizes read from every family's config.json are those of the loaded model."""

from pathlib import Path

from flmm.lmm.architecture import LMMArchitecture, read_architecture
from flmm.lmm.base import LMMAdapter


def test_architecture_in_the_configuration(adapter: LMMAdapter, tmp_path: Path) -> None:
    adapter.model.config.save_pretrained(tmp_path)
    assert read_architecture(str(tmp_path)) == LMMArchitecture.of(adapter)
