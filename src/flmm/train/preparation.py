"""What a run begins with: its data, the frozen models, and the features that its head needs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast

from flmm.data.features import FeatureExtractor
from flmm.data.sample import Sample
from flmm.data.sources import read_sources
from flmm.distributed import run_on_all_processes
from flmm.errors import InputError, first_line
from flmm.head.model import GroundingHead
from flmm.lmm.base import LMMAdapter
from flmm.progress import ProgressCallback
from flmm.train.dataset import UncachedDataset
from flmm.train.fit import MessageCallback
from flmm.train.model_setup import (
    build_head,
    layer_map_indices,
    load_frozen_lmm,
    load_or_select_maps,
)
from flmm.train.settings import TrainingSettings
from flmm.train.tracking import check_tracker
from flmm.user_input import resolve_device


@dataclass(frozen=True)
class PreparedTraining:
    """The models and data of a run, before its first step."""

    head: GroundingHead
    """Untrained."""
    extractor: FeatureExtractor
    datasets: dict[str, UncachedDataset]
    """"training" and "validation"."""
    validation_source_sizes: dict[str, int]
    """Number of validation pictures of each source, in the order of the data."""


def prepare_training(
    settings: TrainingSettings,
    base_folder: Path,
    accelerator: Accelerator,
    on_message: MessageCallback,
    on_progress: ProgressCallback,
) -> PreparedTraining:
    """Read the data, load the frozen models and build the head.

    Raises:
        InputError: one of them cannot be used.
    """
    adapter = run_on_all_processes(lambda: load_frozen_lmm(settings, accelerator.device))
    training = run_on_all_processes(lambda: read_sources(settings.train, base_folder))
    validation = run_on_all_processes(lambda: read_sources(settings.validation, base_folder))
    samples = {
        "training": _concatenate_sources(training),
        "validation": _concatenate_sources(validation),
    }
    head = _build_trainable_head(
        settings, adapter, samples["training"], accelerator, on_message, on_progress
    )
    extractor = FeatureExtractor(adapter, head.config, head.refiner)
    datasets = {
        name: UncachedDataset(part, extractor, settings.protocol, on_message)
        for name, part in samples.items()
    }
    source_sizes = {name: len(source) for name, source in validation.items()}
    return PreparedTraining(head, extractor, datasets, source_sizes)


def create_accelerator(settings: TrainingSettings) -> Accelerator:
    """Return the accelerator of a run, whose folder is made.

    Raises:
        InputError: the device or the tracker is not there, or the folder cannot be made.
    """
    if settings.device not in (None, "cpu", "cuda"):
        raise InputError(
            f"device is {settings.device!r}; training knows cpu and cuda: choose the GPU with"
            " CUDA_VISIBLE_DEVICES"
        )
    resolve_device(settings.device)
    try:
        accelerator = Accelerator(
            cpu=settings.device == "cpu",
            log_with=None if settings.tracker is None else settings.tracker.value,
            project_dir=settings.out,
        )
    except (OSError, ValueError, ImportError) as error:
        raise InputError(
            f"the run in {str(settings.out)!r} cannot start: {first_line(error)}"
        ) from error
    run_on_all_processes(lambda: _prepare(accelerator, settings))
    return accelerator


def _prepare(accelerator: Accelerator, settings: TrainingSettings) -> None:
    check_tracker(accelerator, settings.tracker)
    try:
        settings.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot make the folder {str(settings.out)!r} ({error.strerror}); choose another out"
        ) from error


def _concatenate_sources(sources: Mapping[str, list[Sample]]) -> list[Sample]:
    return [sample for samples in sources.values() for sample in samples]


def _build_trainable_head(
    settings: TrainingSettings,
    adapter: LMMAdapter,
    samples: Sequence[Sample],
    accelerator: Accelerator,
    on_message: MessageCallback,
    on_progress: ProgressCallback,
) -> GroundingHead:
    """Return the untrained head with its selected maps, the same in every process."""
    kept_maps = layer_map_indices(settings.head, adapter)
    if settings.head.heads is not None:

        def make_calibration_dataset() -> UncachedDataset:
            all_maps_head = build_head(settings, adapter, None).to(accelerator.device).eval()
            extractor = FeatureExtractor(adapter, all_maps_head.config, all_maps_head.refiner)
            return UncachedDataset(samples, extractor, settings.protocol, on_message)

        kept_maps = load_or_select_maps(
            settings, settings.head.heads, make_calibration_dataset, accelerator, on_progress
        )
    head = run_on_all_processes(lambda: build_head(settings, adapter, kept_maps))
    head = head.to(accelerator.device)
    if accelerator.num_processes > 1:
        for weight in head.parameters():
            broadcast(weight.data)
    return head
