"""A training run from its settings to a head on disk: setup, fit, validate."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import gather_object

from flmm.atomic_write import write_file_atomically
from flmm.distributed import run_on_all_processes, run_on_main_process
from flmm.head.checkpoint import save_head
from flmm.head.upload import build_model_card
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
from flmm.train.preparation import create_accelerator, prepare_training
from flmm.train.score_calibration import calibrate_saved_head
from flmm.train.settings import TrainingSettings
from flmm.train.tracking import track_run
from flmm.train.validation import ValidationResult, ValidationScores

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
    accelerator = create_accelerator(settings)
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
    prepared = prepare_training(settings, base_folder, accelerator, messages, on_progress)
    head, extractor, uncached = prepared.head, prepared.extractor, prepared.datasets
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

    run = TrainingRun(
        settings, accelerator, head, datasets["training"], datasets["validation"],
        prepared.validation_source_sizes, save_best, on_progress,
    )  # fmt: skip
    progress = fit(run)
    run_on_main_process(
        lambda: calibrate_saved_head(
            settings.out / HEAD_FOLDER, uncached["validation"].samples, extractor, head, on_progress
        )
    )
    best = progress.best_scores
    left_out = len(set(gather_object(messages.messages)))
    return TrainingResult(
        settings.out / HEAD_FOLDER, best.whole if best else None, best.sources if best else {},
        progress.step, progress.best_step, left_out, extractor.batcher.padding,
    )  # fmt: skip


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
