"""A folder with tiny models, data and settings, and `flmm train` in it."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import pytest
import torch
import yaml
from command import CommandResult, run_in_process
from tiny_grounding import save_lmm, tiny_head

from flmm.data.fixtures import write_plain

ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


class Settings(TypedDict, total=False):
    lmm: str
    sam: str
    out: str
    train: list[dict[str, str | int]]
    validation: list[dict[str, str | int]]
    head: dict[str, object]


@dataclass(frozen=True)
class TrainingWorkspace:
    """A folder with data and settings, and the paths of models."""

    folder: Path
    settings: Settings

    def write_settings(self, **changes: object) -> Path:
        file = self.folder / "settings.yaml"
        file.write_text(yaml.safe_dump({**self.settings, **changes}))
        return file

    def load_weights(self, out: str) -> dict[str, torch.Tensor]:
        """Return the trained weights of the checkpoint in ``out``."""
        content = torch.load(self.folder / out / "checkpoint.pt", weights_only=True)
        weights: dict[str, torch.Tensor] = content["weights"]
        return weights


def make_workspace(folder: Path, temporary: pytest.TempPathFactory) -> TrainingWorkspace:
    """Write settings and data to ``folder``; the tiny models are made once for all tests."""
    models = temporary.getbasetemp() / "models-to-train-with"
    if not models.exists():
        save_lmm(models / "lmm")
        tiny_head().refiner.sam.save_pretrained(models / "sam")
        write_plain(models / "data", 6)
        write_plain(models / "held-out", 2, 50)
    for name in ("data", "held-out"):
        shutil.copytree(models / name, folder / name)
    settings: Settings = {
        "lmm": str(models / "lmm"),
        "sam": str(models / "sam"),
        "out": "run",
        "train": [{"kind": "plain", "name": "plain", "file": "data/texts.jsonl"}],
        "validation": [{"kind": "plain", "name": "held-out", "file": "held-out/texts.jsonl"}],
        "head": {"base_channels": 4, "stages": 3, "upsample_input": 16, "selector_width": 8},
    }
    training = {
        "epochs": 2, "batch_size": 3, "micro_batch_size": 2, "learning_rate": 1e-3, "device": "cpu",
        "log_every": 1, "checkpoint_every": 1,
    }  # fmt: skip
    return TrainingWorkspace(folder, {**settings, **training})  # type: ignore[typeddict-item]


def train(capsys: pytest.CaptureFixture[str], settings: Path, *flags: str) -> CommandResult:
    return run_in_process(["train", str(settings), *flags], capsys)


def error_line(ended: CommandResult) -> str:
    """Return the error message of a command that failed."""
    assert ended.code == 2
    lines = [line for line in ended.err.splitlines() if "loss" not in line.split(":")[-1][:6]]
    assert lines[-1].startswith("flmm: ")
    return lines[-1]


def max_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    assert first.keys() == second.keys()
    return max((first[name] - second[name]).abs().max().item() for name in first)
