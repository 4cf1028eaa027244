"""Checkpoints: a run's state on disk, from which it resumes with the same results."""

import pickle
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypedDict

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.optim import Optimizer

from flmm.atomic_write import atomic_write
from flmm.errors import InputError
from flmm.train.validation import ValidationResult, ValidationScores
from flmm.train.weight_average import WeightAverage

_FILE_NAME = "checkpoint.pt"
_SETTINGS = TypeAdapter(dict[str, object])


class _Scores(TypedDict):
    decoder_cumulative_iou: float
    decoder_mean_iou: float
    refined_cumulative_iou: float
    refined_mean_iou: float
    phrases: int


class _Validation(TypedDict):
    whole: _Scores
    sources: dict[str, _Scores]


@dataclass(frozen=True)
class TrainingProgress:
    """The progress of a run."""

    step: int = 0
    """Number of finished steps."""
    best_scores: ValidationResult | None = None
    """The best head's scores; None before the first validation."""
    best_step: int = 0


@dataclass(frozen=True)
class TrainingState:
    """Everything that changes during a run: weights, optimizer, average."""

    weights: dict[str, nn.Parameter]
    optimizer: Optimizer
    weight_average: WeightAverage | None

    def save(self, folder: Path, settings_json: str, progress: TrainingProgress) -> None:
        """Write the checkpoint atomically: the previous one stays until it is complete.

        Raises:
            InputError: it cannot be written.
        """
        content = {
            "settings": settings_json,
            "step": progress.step,
            "best": None if progress.best_scores is None else asdict(progress.best_scores),
            "best_step": progress.best_step,
            "weights": {name: weight.detach() for name, weight in self.weights.items()},
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.weight_average is None else self.weight_average.state_dict(),
        }
        try:
            with atomic_write(folder / _FILE_NAME) as path:
                torch.save(content, path)
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"checkpoint in {str(folder)!r} cannot be written ({error}); make room and start"
                " again: the checkpoint before it stays"
            ) from error

    @torch.no_grad()
    def load(self, folder: Path, settings_json: str) -> TrainingProgress:
        """Restore the state in place and return its progress; without a checkpoint, do nothing.

        Raises:
            InputError: the checkpoint is damaged, or from a run with other settings.
        """
        file = folder / _FILE_NAME
        if not file.exists():
            return TrainingProgress()
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
            saved_settings, best_scores = content["settings"], _parse_validation(content["best"])
        except (OSError, RuntimeError, EOFError, KeyError, TypeError, ValueError,
                pickle.UnpicklingError) as error:  # fmt: skip
            raise InputError(
                f"{str(file)!r} is damaged; delete it to start from the beginning"
            ) from error
        if saved_settings != settings_json:
            raise InputError(
                f"{str(folder)!r} holds a run with other settings"
                f" ({_describe_difference(saved_settings, settings_json)});"
                " choose another folder for this one, or set them back"
            )
        weights: dict[str, Tensor] = content["weights"]
        for name, weight in self.weights.items():
            weight.copy_(weights[name])
        self.optimizer.load_state_dict(content["optimizer"])
        if self.weight_average is not None:
            self.weight_average.load_state_dict(content["average"])
        return TrainingProgress(content["step"], best_scores, content["best_step"])


def _parse_validation(content: _Validation | None) -> ValidationResult | None:
    """Return the result that ``asdict`` turned into ``content``."""
    if content is None:
        return None
    sources = {name: ValidationScores(**scores) for name, scores in content["sources"].items()}
    return ValidationResult(ValidationScores(**content["whole"]), sources)


def _describe_difference(saved_json: str, current_json: str) -> str:
    """Return a description of the first entry that differs between two JSON objects."""
    before, now = _SETTINGS.validate_json(saved_json), _SETTINGS.validate_json(current_json)
    name = next(name for name in [*now, *before] if before.get(name) != now.get(name))
    return f"{name} was {before.get(name)!r}, now {now.get(name)!r}"
