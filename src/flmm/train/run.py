"""A training run from its settings to a head on disk: setup, fit, validate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object

from flmm.atomic_write import write_file_atomically
from flmm.data.features import FeatureExtractor
from flmm.data.sample import Sample
from flmm.data.sources import read_sources
from flmm.distributed import run_on_all_processes, run_on_main_process
from flmm.errors import InputError, first_line
from flmm.head.checkpoint import save_head
from flmm.head.model import GroundingHead
from flmm.head.upload import build_model_card
from flmm.lmm.base import LMMAdapter
from flmm.progress import ProgressCallback, no_progress
from flmm.train.dataset import TrainingDataset, UncachedDataset
from flmm.train.feature_cache import (
    CachedDataset,
    CacheKey,
    FeatureCache,
    digest_sample,
    fill_cache,
)
from flmm.train.fit import MessageCallback, TrainingRun, fit
from flmm.train.model_setup import (
    build_head,
    layer_map_indices,
    load_frozen_lmm,
    load_or_select_maps,
)
from flmm.train.score_calibration import calibrate_saved_head
from flmm.train.settings import TrainingSettings
from flmm.train.tracking import check_tracker, track_run
from flmm.train.validation import ValidationResult, ValidationScores
from flmm.user_input import resolve_device

HEAD_FOLDER = "head"


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training run."""

    head: Path
    """The best head's folder."""
    scores: ValidationScores | None
    """The best head's, on all validation data; None without validation data."""
    sources: dict[str, ValidationScores]
    """The best head's, on each validation source, by its name."""
    steps: int
    best_step: int
    left_out: int
    """Number of messages about pictures and texts that were left out."""
    padding: float
    """Share in 0..1 of the LMM's input tokens that were padding; 0 where there was no input."""


@dataclass
class _MessageCollector:
    """A message callback that also keeps this process's messages, to count what was left out."""

    on_message: MessageCallback
    messages: list[str]

    def __call__(self, line: str) -> None:
        self.messages.append(line)
        self.on_message(line)


def train(
    settings: TrainingSettings,
    base_folder: Path,
    on_message: MessageCallback,
    on_progress: ProgressCallback,
) -> TrainingResult:
    """Train a head, or resume a run in the same folder from its checkpoint.

    Args:
        settings: everything about the run.
        base_folder: the folder that relative paths of data start from.
        on_message: called with a line for each skipped picture or text and damaged cache shard.
        on_progress: called with (steps or pictures done, their number, what is being done).

    Raises:
        InputError: data, models, cache or checkpoint cannot be used, or the loss is not finite.
    """
    accelerator = _create_accelerator(settings)
    with track_run(accelerator, settings):
        return _train(
            settings, base_folder, accelerator, _MessageCollector(on_message, []), on_progress
        )


def _train(
    settings: TrainingSettings,
    base_folder: Path,
    accelerator: Accelerator,
    messages: _MessageCollector,
    on_progress: ProgressCallback,
) -> TrainingResult:
    if not accelerator.is_main_process:
        on_progress = no_progress
    adapter = run_on_all_processes(lambda: load_frozen_lmm(settings, accelerator.device))
    training = run_on_all_processes(lambda: read_sources(settings.train, base_folder))
    validation = run_on_all_processes(lambda: read_sources(settings.validation, base_folder))
    samples = {
        "training": _concatenate_sources(training),
        "validation": _concatenate_sources(validation),
    }
    head = _build_trainable_head(
        settings, adapter, samples["training"], accelerator, messages, on_progress
    )
    extractor = FeatureExtractor(adapter, head.config, head.refiner)
    uncached = {
        name: UncachedDataset(part, extractor, settings.protocol, messages)
        for name, part in samples.items()
    }
    datasets: dict[str, TrainingDataset] = dict(uncached)
    if settings.cache is not None:
        datasets = _build_cached_datasets(
            settings, settings.cache, uncached, accelerator, messages.on_message, on_progress
        )

    def save_best(scores: ValidationResult | None, step: int) -> None:
        folder = settings.out / HEAD_FOLDER
        save_head(head, folder)
        card = build_model_card(head.config, _results_section(settings, scores, step))
        write_file_atomically(folder / "README.md", card.encode())

    source_sizes = {name: len(source) for name, source in validation.items()}
    run = TrainingRun(
        settings, accelerator, head, datasets["training"], datasets["validation"], source_sizes,
        save_best, on_progress,
    )  # fmt: skip
    progress = fit(run)
    run_on_main_process(
        lambda: calibrate_saved_head(
            settings.out / HEAD_FOLDER, samples["validation"], extractor, head, on_progress
        )
    )
    best = progress.best_scores
    left_out = len(set(gather_object(messages.messages)))
    return TrainingResult(
        settings.out / HEAD_FOLDER, best.whole if best else None, best.sources if best else {},
        progress.step, progress.best_step, left_out, extractor.padding_stats.share,
    )  # fmt: skip


def _create_accelerator(settings: TrainingSettings) -> Accelerator:
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


def _build_cached_datasets(
    settings: TrainingSettings,
    folder: Path,
    datasets: dict[str, UncachedDataset],
    accelerator: Accelerator,
    on_message: MessageCallback,
    on_progress: ProgressCallback,
) -> dict[str, TrainingDataset]:
    """Fill the cache with the data sets' pictures; return data sets that read from it."""
    precision = settings.cache_precision
    key = CacheKey.build(datasets["training"].extractor, settings.protocol, precision)

    def open_cache() -> FeatureCache:
        return FeatureCache(folder, key, precision, on_message, on_progress)

    # The main process creates the folder before the others open it.
    main_cache = run_on_all_processes(lambda: open_cache() if accelerator.is_main_process else None)
    cache = run_on_all_processes(lambda: main_cache or open_cache())
    digests = {
        name: [digest_sample(sample) for sample in dataset.samples]
        for name, dataset in datasets.items()
    }

    def fill_share(name: str, dataset: UncachedDataset) -> None:
        missing = [index for index, digest in enumerate(digests[name]) if digest not in cache]
        share = missing[accelerator.process_index :: accelerator.num_processes]
        done = 0
        for count in fill_cache(cache, dataset, share):
            done += count
            on_progress(done, len(share), f"caching {name} pictures")

    for name, dataset in datasets.items():
        run_on_all_processes(partial(fill_share, name, dataset))
    if accelerator.num_processes > 1:
        # To find the shards that other processes wrote.
        cache = run_on_all_processes(open_cache)
    return {name: CachedDataset(cache, digests[name]) for name in datasets}


def _results_section(settings: TrainingSettings, scores: ValidationResult | None, step: int) -> str:
    """Return the model card's section about the training and its scores."""
    training_line = (
        f"\nTrained for {step} steps of {settings.batch_size} pictures on"
        f" {', '.join(source.name for source in settings.train)}.\n"
    )
    if scores is None:
        return training_line
    tables = [_table(", ".join(scores.sources), scores.whole)]
    if len(scores.sources) > 1:
        tables += [_table(name, source) for name, source in scores.sources.items()]
    return f"{training_line}{''.join(tables)}\nExpressions were asked {settings.protocol.value}.\n"


def _table(name: str, scores: ValidationScores) -> str:
    return (
        f"\n| {name}: {scores.phrases} phrases | cIoU | mIoU |\n| --- | --- | --- |\n"
        f"| mask decoder | {scores.decoder_cumulative_iou:.3f} | {scores.decoder_mean_iou:.3f} |\n"
        f"| refined | {scores.refined_cumulative_iou:.3f} | {scores.refined_mean_iou:.3f} |\n"
    )
