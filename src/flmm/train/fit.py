"""The training loop: loss, gradient, step; regular checkpoints; validation after each epoch."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import AdamW

from flmm.distributed import run_on_all_processes, run_on_main_process
from flmm.errors import InputError
from flmm.head.model import GroundingHead
from flmm.progress import ProgressCallback
from flmm.train.batch_loss import compute_loss_sums, count_phrases, count_tokens
from flmm.train.batch_sampler import BatchSampler, split_into_batches
from flmm.train.dataset import TrainingDataset, TrainingExample
from flmm.train.log import TrainingLog
from flmm.train.settings import MixedPrecision, TrainingSettings
from flmm.train.training_state import TrainingProgress, TrainingState
from flmm.train.validation import ValidationResult, validate
from flmm.train.weight_average import WeightAverage

MessageCallback = Callable[[str], None]
SaveBestCallback = Callable[[ValidationResult | None, int], None]
"""Called with the scores of the current head (None without validation data) and its step."""

_StepBatches = tuple[int, list[list[TrainingExample]]]


@dataclass(frozen=True)
class TrainingRun:
    """Everything that ``fit`` needs."""

    settings: TrainingSettings
    accelerator: Accelerator
    head: GroundingHead
    training_data: TrainingDataset
    validation_data: TrainingDataset
    validation_source_sizes: Mapping[str, int]
    """Number of validation pictures of each source, in the order of the data."""
    save_best: SaveBestCallback
    on_progress: ProgressCallback

    @property
    def batch_sampler(self) -> BatchSampler:
        settings = self.settings
        return BatchSampler(
            len(self.training_data), settings.batch_size, settings.epochs, settings.seed
        )


def fit(run: TrainingRun) -> TrainingProgress:
    """Train the head in place, from the run's checkpoint where there is one.

    Raises:
        InputError: the loss is not finite, no picture can be read, or a checkpoint cannot be
            written or read; the last checkpoint stays.
    """
    settings, sampler, head = run.settings, run.batch_sampler, run.head
    state = _create_state(run)
    settings_json = _resume_settings(run)
    progress = run_on_all_processes(lambda: state.load(settings.out, settings_json))
    log = TrainingLog(settings.out, run.accelerator, sampler.steps_per_epoch, progress.step)
    head.train()
    start = time.perf_counter()
    learned_anything = progress.step > 0
    for step, batches in _prefetch_batches(run, progress.step):
        loss, phrases = _train_step(run, state, batches, step)
        learned_anything = learned_anything or phrases > 0
        progress = replace(progress, step=step + 1)
        epoch_ends = progress.step % sampler.steps_per_epoch == 0
        if progress.step % settings.log_every == 0 or epoch_ends:
            now = time.perf_counter()
            log.write(progress.step, {"loss": loss, "phrases": phrases, "seconds": now - start})
        run.on_progress(progress.step, sampler.num_steps, f"loss {loss:.4f}")
        if epoch_ends and not learned_anything:
            raise InputError(
                f"none of the {len(run.training_data)} pictures can be learned from; check the data"
            )
        if epoch_ends:
            progress = _end_epoch(run, state, progress, log)
        if epoch_ends or progress.step % settings.checkpoint_every == 0:
            run_on_main_process(partial(state.save, settings.out, settings_json, progress))
    return progress


def _resume_settings(run: TrainingRun) -> str:
    """Return as JSON the settings that must be the same when a run is resumed."""
    may_change = {"out", "tracker", "log_every", "device"}
    content = run.settings.model_dump(mode="json", exclude=may_change)
    return json.dumps({**content, "number of pictures": len(run.training_data)})


def head_autocast(settings: TrainingSettings, device: torch.device) -> torch.autocast:
    """Return a context in which the head computes in bfloat16, if the settings say so."""
    # accelerate's mixed precision would stay on for later runs in the same process.
    enabled = settings.mixed_precision is MixedPrecision.BFLOAT16
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def _create_state(run: TrainingRun) -> TrainingState:
    head, settings = run.head, run.settings
    head.to(run.accelerator.device)
    weights = {name: weight for name, weight in head.named_parameters() if weight.requires_grad}
    parameters = list(weights.values())
    optimizer = AdamW(parameters, settings.learning_rate, weight_decay=settings.weight_decay)
    decay = settings.average
    average = None if decay is None else WeightAverage(parameters, decay)
    return TrainingState(weights, optimizer, average)


def _prefetch_batches(run: TrainingRun, first_step: int) -> Iterator[_StepBatches]:
    """Yield this process's batches of each step; on a GPU, read during the step before."""
    accelerator, size = run.accelerator, run.settings.micro_batch_size

    def read(step: int, indices: list[int]) -> _StepBatches:
        own_batches = split_into_batches(
            indices, size, accelerator.process_index, accelerator.num_processes
        )
        batches = [run.training_data.get(batch) for batch in own_batches]
        return step, [batch for batch in batches if batch]

    if accelerator.device.type == "cpu":
        # A second thread would only compete for the same cores.
        for step, indices in run.batch_sampler.batches_from(first_step):
            yield read(step, indices)
        return
    with ThreadPoolExecutor(1) as reader:
        current: Future[_StepBatches] | None = None
        for step, indices in run.batch_sampler.batches_from(first_step):
            following = reader.submit(read, step, indices)
            if current is not None:
                yield current.result()
            current = following
        if current is not None:
            yield current.result()


def learning_rate_factor(progress: float, warm_up: float) -> float:
    """Return the factor at ``progress`` in 0..1: linear warm-up to 1, then a cosine to 0."""
    if progress < warm_up:
        return progress / warm_up
    return 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))


def _train_step(
    run: TrainingRun, state: TrainingState, batches: Sequence[Sequence[TrainingExample]], step: int
) -> tuple[float, int]:
    """Take one optimizer step in all processes; return its (loss, number of phrases)."""
    settings, accelerator = run.settings, run.accelerator
    counts = _sum_over_processes(
        run, [sum(map(count_phrases, batches)), sum(map(count_tokens, batches))]
    ).tolist()
    phrases, tokens = int(counts[0]), int(counts[1])
    parameters = list(state.weights.values())
    for parameter in parameters:
        # AdamW skips a weight whose gradient is None, which could differ between processes.
        parameter.grad = torch.zeros_like(parameter)
    total = torch.zeros((), device=accelerator.device)
    if not phrases:
        return 0.0, 0
    for batch in batches:
        with head_autocast(settings, accelerator.device):
            loss = compute_loss_sums(run.head, batch, accelerator.device).mean(phrases, tokens)
        accelerator.backward(loss)
        total += loss.detach()
    value = float(_sum_over_processes(run, [float(total)]))
    if not math.isfinite(value):
        raise InputError(
            f"the loss is {value} at step {step + 1}; the last checkpoint stays: lower"
            f" learning_rate ({settings.learning_rate}) or leave mixed_precision out"
        )
    _all_reduce_gradients(run, parameters)
    nn.utils.clip_grad_norm_(parameters, settings.clip)
    factor = learning_rate_factor((step + 0.5) / run.batch_sampler.num_steps, settings.warm_up)
    for group in state.optimizer.param_groups:
        group["lr"] = settings.learning_rate * factor
    state.optimizer.step()
    if state.weight_average is not None:
        state.weight_average.update(step)
    return value, phrases


def _sum_over_processes(run: TrainingRun, values: Sequence[float]) -> Tensor:
    """Return each value's sum over all processes, as float32."""
    # Some GPUs have no float64; counts are exact in float32 up to 2^24.
    tensor = torch.tensor(values, device=run.accelerator.device, dtype=torch.float32)
    summed = run.accelerator.reduce(tensor, "sum")
    assert isinstance(summed, Tensor)
    return summed


def _all_reduce_gradients(run: TrainingRun, parameters: Sequence[nn.Parameter]) -> None:
    """Replace gradients by their sums over all processes, in one reduction."""
    if run.accelerator.num_processes == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    summed = run.accelerator.reduce(
        torch.cat([gradient.flatten() for gradient in gradients]), "sum"
    )
    assert isinstance(summed, Tensor)
    parts = torch.split(summed, [gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def _end_epoch(
    run: TrainingRun, state: TrainingState, progress: TrainingProgress, log: TrainingLog
) -> TrainingProgress:
    """Validate, with averaged weights if there are any, and save the head if it is the best."""
    if state.weight_average is None:
        return _validate(run, progress, log)
    with state.weight_average.average_applied():
        return _validate(run, progress, log)


def _validate(run: TrainingRun, progress: TrainingProgress, log: TrainingLog) -> TrainingProgress:
    accelerator = run.accelerator
    if not len(run.validation_data):
        run_on_main_process(lambda: run.save_best(None, progress.step))
        return replace(progress, best_step=progress.step)
    batches = _validation_batches(run)

    def pictures() -> Iterator[tuple[str, TrainingExample]]:
        for done, (name, indices) in enumerate(batches):
            run.on_progress(
                progress.step, run.batch_sampler.num_steps, f"validation {done / len(batches):.0%}"
            )
            for picture in run.validation_data.get(indices):
                yield name, picture

    run.head.eval()
    with head_autocast(run.settings, accelerator.device):
        scores = validate(run.head, pictures(), list(run.validation_source_sizes), accelerator)
    run.head.train()
    log.write(progress.step, {f"validation/{name}": v for name, v in scores.to_dict().items()})
    if (
        progress.best_scores is not None
        and not scores.whole.selection_score > progress.best_scores.whole.selection_score
    ):
        return progress
    run_on_main_process(lambda: run.save_best(scores, progress.step))
    return replace(progress, best_scores=scores, best_step=progress.step)


def _validation_batches(run: TrainingRun) -> list[tuple[str, Sequence[int]]]:
    """Return this process's batches as (source name, picture indices); a batch has one source."""
    process, processes = run.accelerator.process_index, run.accelerator.num_processes
    batches: list[tuple[str, Sequence[int]]] = []
    first = 0
    for name, size in run.validation_source_sizes.items():
        indices = range(first, first + size)
        batches += [
            (name, batch)
            for batch in split_into_batches(indices, run.settings.micro_batch_size, 0, 1)
        ]
        first += size
    return batches[process::processes]
