"""The head of the trained LMM, made and measured by flmm's own commands as anybody would."""

import subprocess
import sys
from pathlib import Path

import yaml

from flmm.atomic_write import write_file_atomically
from flmm.embedded_model.recipe.hardware import FAST_BFLOAT16
from flmm.stickers.dataset import EVALUATION_SEED, VALIDATION_SEED
from flmm.stickers.language import SEGMENT_QUESTION

SAM_NAME = "embedded:sam"
BATCH_SIZE = 4
CLAIMS = ("ground", "conversation", "where")


def write_settings(folder: Path, lmm: Path, scenes: int, validation: int, epochs: int) -> Path:
    """Write the settings of ``flmm train`` for so many scenes; return their file."""
    stickers = {"kind": "stickers", "folder": "scenes"}
    settings = {
        "lmm": str(lmm.resolve()),
        "sam": SAM_NAME,
        "out": "head-training",
        "cache": "features",
        "train": [{**stickers, "name": "stickers", "scenes": scenes, "first_scene": 0}],
        "validation": [
            {**stickers, "name": "others", "scenes": validation, "first_scene": VALIDATION_SEED}
        ],
        "protocol": "one-by-one",
        "epochs": epochs,
        "batch_size": BATCH_SIZE,
        "micro_batch_size": BATCH_SIZE // 2,
        "learning_rate": 1e-3,
        "head": {
            "base_channels": 32,
            "selector_width": 64,
            "segment_prompt": SEGMENT_QUESTION.format(phrase="the {phrase}"),
        },
        "mixed_precision": "bf16" if FAST_BFLOAT16 else "no",
    }
    file = folder / "head.yaml"
    write_file_atomically(file, yaml.safe_dump(settings, sort_keys=False).encode())
    return file


def train_head(settings: Path) -> Path:
    """Train the head, or go on; return its folder."""
    _run_flmm("train", str(settings))
    return settings.parent / "head-training" / "head"


def measure_head(folder: Path, lmm: Path, head: Path, scenes: int) -> None:
    """Measure masks on scenes that nothing was trained on, and the paper's claims with the head.

    Masks are the head's, and those of attention alone.
    """
    # Not the LMM that the head names: the folder may have moved.
    models = ("--model", str(head), "--lmm", str(lmm))
    for name, options in {
        "head-evaluation": models,
        "attention-evaluation": ("--lmm", str(lmm), "--sam", "none"),
    }.items():
        _run_flmm(
            *("evaluate", "stickers", "--folder", str(folder / "evaluation")),
            *("--scenes", str(scenes), "--first-scene", str(EVALUATION_SEED), *options),
            *("--out", str(folder / name)),
        )
    _run_flmm(
        *("report", *CLAIMS, *models, "--scenes", str(scenes)),
        *("--out", str(folder / "report"), "--work", str(folder / "report-work")),
    )


def _run_flmm(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "flmm.cli.main", *arguments], check=True)
