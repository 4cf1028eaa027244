"""A training run from its settings to a head on disk: setup, fit, validate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object

from flmm.atomic_write import write_whole
from flmm.data.features import FeatureExtractor
from flmm.data.sample import Sample
from flmm.data.sources import read_sources
from flmm.distributed import agree
from flmm.errors import InputError
from flmm.head.checkpoint import model_card, save_head
from flmm.head.model import GroundingHead
from flmm.lmm.base import LMMAdapter
from flmm.progress import Watch, unwatched
from flmm.train.dataset import LivePictures, TrainingPictures
from flmm.train.feature_cache import CachedPictures, CacheKey, FeatureCache, fill, sample_digest
from flmm.train.fit import Run, Tell, fit
from flmm.train.model_setup import choose_maps, load_frozen_lmm, maps_of_layers, new_head
from flmm.train.settings import TrainingSettings
from flmm.train.tracking import check_tracker, tracked
from flmm.train.validation import Validation, ValidationScores
from flmm.user_input import find_device

HEAD_FOLDER = "head"


@dataclass(frozen=True)
class TrainingResult:
    """What a run ends with."""

    head: Path
    """The best head's folder."""
    scores: ValidationScores | None
    """The best head's on all validation data; None without any."""
    sources: dict[str, ValidationScores]
    """The best head's on each of the validation's sources."""
    steps: int
    best_step: int
    left_out: int
    """Pictures and texts that could not be read, each told once."""
    padding: float
    """Share in 0..1 of what the LMM read; 0 where it read nothing."""


@dataclass
class _Told:
    """What was left out, in this process."""

    tell: Tell
    lines: list[str]

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        self.tell(line)


def train(settings: TrainingSettings, base: Path, tell: Tell, watch: Watch) -> TrainingResult:
    """Trains a head, going on where a run in the same folder stopped.

    Args:
        settings: everything about the run.
        base: the folder that the data's relative paths are relative to.
        tell: given one line for each picture or text that is left out, and for damaged cache files.
        watch: shown (done, all, how it goes).

    Raises:
        InputError: data, models, cache or checkpoint cannot be used, or the loss is no number.
    """
    accelerator = _setup(settings)
    with tracked(accelerator, settings):
        return _train(settings, base, accelerator, _Told(tell, []), watch)


def _train(
    settings: TrainingSettings,
    base: Path,
    accelerator: Accelerator,
    told: _Told,
    watch: Watch,
) -> TrainingResult:
    if not accelerator.is_main_process:
        watch = unwatched
    adapter = agree(lambda: load_frozen_lmm(settings, accelerator.device))
    training = agree(lambda: read_sources(settings.train, base))
    validation = agree(lambda: read_sources(settings.validation, base))
    parts = {"training": _joined(training), "validation": _joined(validation)}
    head = _head(settings, adapter, parts["training"], accelerator, told, watch)
    extractor = FeatureExtractor(adapter, head)
    live = {
        name: LivePictures(samples, extractor, settings.protocol, told)
        for name, samples in parts.items()
    }
    pictures: dict[str, TrainingPictures] = dict(live)
    if settings.cache is not None:
        pictures = _cached(settings, settings.cache, live, accelerator, told, watch)

    def keep_best(scores: Validation | None, step: int) -> None:
        folder = settings.out / HEAD_FOLDER
        save_head(head, folder)
        card = model_card(head.config, _measured(settings, scores, step))
        write_whole(folder / "README.md", card.encode())

    sizes = {name: len(samples) for name, samples in validation.items()}
    run = Run(
        settings, accelerator, head, pictures["training"], pictures["validation"], sizes,
        keep_best, watch,
    )  # fmt: skip
    progress = fit(run)
    best = progress.best
    left_out = len(set(gather_object(told.lines)))
    return TrainingResult(
        settings.out / HEAD_FOLDER, best.whole if best else None, best.sources if best else {},
        progress.step, progress.best_step, left_out, extractor.padding.share,
    )  # fmt: skip


def _setup(settings: TrainingSettings) -> Accelerator:
    if settings.device not in (None, "cpu", "cuda"):
        raise InputError(
            f"device is {settings.device!r}; training knows cpu and cuda: choose the GPU with"
            " CUDA_VISIBLE_DEVICES"
        )
    find_device(settings.device)
    try:
        accelerator = Accelerator(
            cpu=settings.device == "cpu",
            log_with=None if settings.tracker is None else settings.tracker.value,
            project_dir=settings.out,
        )
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"the run in {str(settings.out)!r} cannot start: {reason}") from error
    agree(lambda: _prepare(accelerator, settings))
    return accelerator


def _prepare(accelerator: Accelerator, settings: TrainingSettings) -> None:
    check_tracker(accelerator, settings.tracker)
    try:
        settings.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot make the folder {str(settings.out)!r} ({error.strerror}); choose another out"
        ) from error


def _joined(sources: Mapping[str, list[Sample]]) -> list[Sample]:
    return [sample for samples in sources.values() for sample in samples]


def _head(
    settings: TrainingSettings,
    adapter: LMMAdapter,
    samples: Sequence[Sample],
    accelerator: Accelerator,
    tell: Tell,
    watch: Watch,
) -> GroundingHead:
    """The untrained head, with its maps chosen; the same in every process."""
    kept = maps_of_layers(settings.head, adapter)
    if settings.head.heads is not None:

        def calibration() -> LivePictures:
            whole = new_head(settings, adapter, None).to(accelerator.device).eval()
            extractor = FeatureExtractor(adapter, whole)
            return LivePictures(samples, extractor, settings.protocol, tell)

        kept = choose_maps(settings, settings.head.heads, calibration, accelerator, watch)
    head = agree(lambda: new_head(settings, adapter, kept)).to(accelerator.device)
    if accelerator.num_processes > 1:
        for weight in head.parameters():
            broadcast(weight.data)
    return head


def _cached(
    settings: TrainingSettings,
    folder: Path,
    live: dict[str, LivePictures],
    accelerator: Accelerator,
    tell: Tell,
    watch: Watch,
) -> dict[str, TrainingPictures]:
    """The same pictures from the cache, which is filled first."""
    extractor = live["training"].extractor
    precision = settings.cache_precision
    key = CacheKey.of(extractor.adapter, extractor.head, settings.protocol, precision)

    def opened() -> FeatureCache:
        return FeatureCache(folder, key, precision, tell, watch)

    # The first process makes the folder, and only then do the others look into it.
    first = agree(lambda: opened() if accelerator.is_main_process else None)
    cache = agree(lambda: first or opened())
    digests = {name: [sample_digest(one) for one in part.samples] for name, part in live.items()}

    def fill_share(name: str, part: LivePictures) -> None:
        missing = [number for number, one in enumerate(digests[name]) if one not in cache]
        mine = missing[accelerator.process_index :: accelerator.num_processes]
        done = 0
        for count in fill(cache, part, mine):
            done += count
            watch(done, len(mine), f"caching {name} pictures")

    for name, part in live.items():
        agree(partial(fill_share, name, part))
    if accelerator.num_processes > 1:
        # The other processes' shards.
        cache = agree(opened)
    return {name: CachedPictures(cache, digests[name]) for name in live}


def _measured(settings: TrainingSettings, scores: Validation | None, step: int) -> str:
    """What a model card says of training and figures."""
    trained = (
        f"\nTrained for {step} steps of {settings.batch_size} pictures on"
        f" {', '.join(source.name for source in settings.train)}.\n"
    )
    if scores is None:
        return trained
    tables = [_table(", ".join(scores.sources), scores.whole)]
    if len(scores.sources) > 1:
        tables += [_table(name, one) for name, one in scores.sources.items()]
    return f"{trained}{''.join(tables)}\nExpressions were asked {settings.protocol.value}.\n"


def _table(name: str, scores: ValidationScores) -> str:
    return (
        f"\n| {name}: {scores.phrases} phrases | cIoU | mIoU |\n| --- | --- | --- |\n"
        f"| mask decoder | {scores.decoder_cumulative_iou:.3f} | {scores.decoder_mean_iou:.3f} |\n"
        f"| refined | {scores.refined_cumulative_iou:.3f} | {scores.refined_mean_iou:.3f} |\n"
    )
