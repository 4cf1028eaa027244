"""Tiny models, a picture and an empty folder, for tests of commands."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_grounding import save_lmm, save_tiny_head


@dataclass(frozen=True)
class Models:
    """A tiny LMM and a head for it."""

    lmm: Path
    head: Path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("models")
    lmm = save_lmm(folder / "lmm")
    return Models(lmm, save_tiny_head(folder / "head", str(lmm)))


@pytest.fixture
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def scene(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("pictures") / "scene.png"
    values = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return str(path)
