"""An evaluation run: samples are loaded, measured and stored part by part, on all processes.

A part is a fixed group of samples that run through the LMM together, so neither the number of
processes nor an interruption changes any score.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from accelerate import PartialState

from flmm.data.exchanges import ReferringProtocol
from flmm.data.sample import Sample
from flmm.data.sample_loader import SampleLoader
from flmm.distributed import run_on_all_processes, run_on_main_process
from flmm.errors import InputError
from flmm.evaluate.answers.evaluator import AnswerEvaluator
from flmm.evaluate.baseline_evaluator import (
    BaselineEvaluator,
    create_baseline,
    require_segmenter,
)
from flmm.evaluate.benchmark import Benchmark, Scoring, build_run_record, prepare_run_folder
from flmm.evaluate.generation import GenerationEvaluator
from flmm.evaluate.head_evaluator import HeadEvaluator
from flmm.evaluate.predictions import IndexedSample
from flmm.evaluate.results import (
    ANSWER_ROWS,
    MASK_ROWS,
    is_part_complete,
    merge_parts,
    part_file,
    write_part,
)
from flmm.evaluate.rows import SampleResult, SampleRow
from flmm.evaluate.training_free_evaluator import TrainingFreeEvaluator
from flmm.grounding.chain_of_thought import check_two_pictures
from flmm.grounding.grounder import Grounder

# A large LMM's attention maps are some megabytes a token, and a part's are in memory together.
_SAMPLES_PER_PART = 4


def evaluate(
    grounder: Grounder,
    benchmark: Benchmark,
    protocol: ReferringProtocol,
    out: Path,
    state: PartialState,
    on_message: Callable[[str], None],
    advance: Callable[[int, int], None] = lambda _done, _total: None,
    baseline: str | None = None,
) -> None:
    """Measure a benchmark; ``score_tables.build_report(out)`` then makes the tables.

    Called again with the same ``out``, it continues. The processes take parts in turn; the main
    process joins all of them at the end.

    Args:
        grounder: the LMM, with a head or without.
        benchmark: what to measure on.
        protocol: how referring expressions are asked.
        out: the folder of the results, created if missing.
        state: accelerate's processes; ``PartialState()`` for a single one.
        on_message: called with one line for each skipped sample or text, and each damaged part.
        advance: called with how many of this process's samples are done, and how many it has.
        baseline: a published method's name (``BASELINES``), measured in place of the grounder's
            own.

    Raises:
        InputError: the benchmark is empty, ``out`` holds another run, the disk is full, the
            baseline cannot be measured with this grounder or on this benchmark, or the LMM should
            look closer and cannot be shown two pictures.
    """
    if baseline is not None:
        check_baseline(grounder, benchmark, baseline)
    if benchmark.scoring is Scoring.ANSWERS:
        check_two_pictures(grounder.adapter, grounder.lmm)
    run_on_all_processes(
        lambda: prepare_run_folder(out, build_run_record(grounder, benchmark, protocol, baseline))
    )
    # Only if a part is missing, since some methods are first fitted to the benchmark's texts.
    get_evaluator = functools.cache(
        lambda: create_evaluator(grounder, benchmark, protocol, baseline)
    )
    num_samples = len(benchmark.samples)
    num_parts = -(-num_samples // _SAMPLES_PER_PART)
    own_parts = {
        part: range(part * _SAMPLES_PER_PART, min((part + 1) * _SAMPLES_PER_PART, num_samples))
        for part in range(state.process_index, num_parts, state.num_processes)
    }

    def evaluate_own_parts() -> None:
        missing = {
            part: indices
            for part, indices in own_parts.items()
            if not _is_part_done(part_file(out, part), indices, on_message)
        }
        total = sum(map(len, own_parts.values()))
        done = total - sum(map(len, missing.values()))
        # All that is on disk at once: it took no time, which would make the time left too short.
        advance(done, total)
        for part, indices in missing.items():
            rows = _evaluate_part(get_evaluator(), benchmark.samples, indices, on_message)
            write_part(part_file(out, part), rows)
            done += len(indices)
            advance(done, total)

    run_on_all_processes(evaluate_own_parts)
    row_names = ANSWER_ROWS if benchmark.scoring is Scoring.ANSWERS else MASK_ROWS
    run_on_main_process(lambda: merge_parts(out, num_parts, row_names))


class Evaluator(Protocol):
    """Measures samples."""

    def evaluate(self, samples: Sequence[IndexedSample]) -> list[SampleResult | InputError]:
        """Return the rows of each sample, or its error."""


def check_baseline(grounder: Grounder, benchmark: Benchmark, baseline: str) -> None:
    """Check that a published method can be measured.

    Raises:
        InputError: the grounder has a head or no SAM, or the benchmark's texts are generated.
    """
    require_segmenter(grounder, baseline)
    if benchmark.scoring is Scoring.CONVERSATION:
        raise InputError(
            f"method {baseline!r} is measured on texts that are given, and in"
            f" {benchmark.name!r} the LMM speaks; leave out --method, or choose another benchmark"
        )


def create_evaluator(
    grounder: Grounder,
    benchmark: Benchmark,
    protocol: ReferringProtocol,
    baseline: str | None = None,
) -> Evaluator:
    """Return what measures the samples of a benchmark: texts given or generated, a head or none.

    ``baseline``: a published method's name, in place of the grounder's own.
    """
    if baseline is not None:
        method = create_baseline(baseline, grounder.adapter, benchmark.samples, protocol)
        return BaselineEvaluator(grounder, method, benchmark.name, protocol)
    if benchmark.scoring is Scoring.CONVERSATION:
        return GenerationEvaluator(grounder, benchmark.name)
    if benchmark.scoring is Scoring.ANSWERS:
        names = benchmark.dataset_names or [benchmark.name] * len(benchmark.samples)
        return AnswerEvaluator(grounder, names)
    adapter, head = grounder.adapter, grounder.head
    if head is not None:
        return HeadEvaluator(adapter, head, benchmark.name, protocol)
    return TrainingFreeEvaluator(
        adapter, grounder.pipeline.mask_predictor, benchmark.name, protocol
    )


def _is_part_done(
    file: Path, sample_indices: Sequence[int], on_message: Callable[[str], None]
) -> bool:
    try:
        return is_part_complete(file, sample_indices)
    except InputError as error:
        on_message(f"{error} (the part is measured again now)")
        return False


def _evaluate_part(
    evaluator: Evaluator,
    samples: Sequence[Sample],
    sample_indices: Sequence[int],
    on_message: Callable[[str], None],
) -> list[SampleResult]:
    """Return the rows of a part, including those of skipped samples."""
    messages: dict[int, list[str]] = {index: [] for index in sample_indices}

    def report(index: int, line: str) -> None:
        messages[index].append(line)
        on_message(line)

    indexed: list[IndexedSample] = []
    for index in sample_indices:
        loader = SampleLoader(lambda line, index=index: report(index, line))  # type: ignore[misc]
        indexed.extend(IndexedSample(index, loaded) for loaded in loader.load([samples[index]]))
    results: dict[int, SampleResult] = {}
    for sample, result in zip(indexed, evaluator.evaluate(indexed), strict=True):
        if isinstance(result, InputError):
            report(sample.index, f"skipped {sample.picture!r}: {result}")
        else:
            for line in result.row.told:
                report(sample.index, line)
            results[sample.index] = result
    for index in sample_indices:
        if index not in results:
            unmeasured = SampleRow(index, str(samples[index].picture), False, 0, 0, ())
            results[index] = SampleResult(unmeasured)
    return [results[index].with_messages(messages[index]) for index in sample_indices]
