"""The run: samples are read, measured and kept part by part, on one process or several.

A part is a fixed group of samples that run through the LMM together, so neither the number of
processes nor a break changes any number.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from accelerate import PartialState

from flmm.data.exchanges import ReferringProtocol
from flmm.data.sample import Sample
from flmm.data.sample_loader import SampleLoader
from flmm.distributed import run_on_all_processes, run_on_main_process
from flmm.errors import InputError
from flmm.evaluate.benchmark import Benchmark, Scoring, build_run_record, prepare_run_folder
from flmm.evaluate.evaluators import GenerationEvaluator, IndexedSample, TeacherForcedEvaluator
from flmm.evaluate.results import is_part_complete, merge_parts, part_file, write_part
from flmm.evaluate.rows import SampleResult, SampleRow
from flmm.grounding.grounder import Grounder

# A text of a large LMM has maps of some megabytes a token, and all of a part's are held at once.
_SAMPLES_PER_PART = 4


def evaluate(
    grounder: Grounder,
    benchmark: Benchmark,
    protocol: ReferringProtocol,
    out: Path,
    state: PartialState,
    on_message: Callable[[str], None],
    advance: Callable[[int, int], None] = lambda _done, _total: None,
) -> None:
    """Measures a benchmark; ``scores.report_of(out)`` then cuts the tables.

    Called again with the same ``out``, it goes on where it stopped. Each process measures every
    so-many-th part; the first one joins all of them at the end.

    Args:
        grounder: the head and its LMM.
        benchmark: what to measure on.
        protocol: how referring expressions are asked.
        out: the folder of the results, made when it is missing.
        state: accelerate's, which knows the processes; ``PartialState()`` for one alone.
        tell: is given one line for each sample or text that is skipped, and each damaged part.
        advance: is given how many of this process's samples are done, and how many they are.

    Raises:
        InputError: the benchmark is empty, ``out`` holds another run, or the disk is full.
    """
    run_on_all_processes(
        lambda: prepare_run_folder(out, build_run_record(grounder, benchmark, protocol))
    )
    measure = (
        GenerationEvaluator(grounder, benchmark.name)
        if benchmark.scoring is Scoring.CONVERSATION
        else TeacherForcedEvaluator(grounder, benchmark.name, protocol)
    )
    count = len(benchmark.samples)
    parts = -(-count // _SAMPLES_PER_PART)
    own = {
        number: range(number * _SAMPLES_PER_PART, min((number + 1) * _SAMPLES_PER_PART, count))
        for number in range(state.process_index, parts, state.num_processes)
    }

    def measure_own() -> None:
        done, total = 0, sum(map(len, own.values()))
        for number, members in own.items():
            file = part_file(out, number)
            if not _is_part_done(file, members, on_message):
                write_part(file, _evaluate_part(measure, benchmark.samples, members, on_message))
            done += len(members)
            advance(done, total)

    run_on_all_processes(measure_own)
    run_on_main_process(lambda: merge_parts(out, parts))


def _is_part_done(
    file: Path, sample_indices: Sequence[int], on_message: Callable[[str], None]
) -> bool:
    try:
        return is_part_complete(file, sample_indices)
    except InputError as error:
        on_message(f"{error} (this is done now)")
        return False


def _evaluate_part(
    evaluator: TeacherForcedEvaluator | GenerationEvaluator,
    samples: Sequence[Sample],
    sample_indices: Sequence[int],
    on_message: Callable[[str], None],
) -> list[SampleResult]:
    """The rows of a part, those of samples that were skipped too."""
    told: dict[int, list[str]] = {number: [] for number in sample_indices}

    def skip(number: int, line: str) -> None:
        told[number].append(line)
        on_message(line)

    numbered: list[IndexedSample] = []
    for number in sample_indices:
        reading = SampleLoader(lambda line, number=number: skip(number, line))  # type: ignore[misc]
        numbered.extend(IndexedSample(number, read) for read in reading.load([samples[number]]))
    rows: dict[int, SampleResult] = {}
    for sample, result in zip(numbered, evaluator.evaluate(numbered), strict=True):
        if isinstance(result, InputError):
            skip(sample.index, f"skipped {sample.picture!r}: {result}")
        else:
            rows[sample.index] = result
    results = []
    for number in sample_indices:
        if number not in rows:
            unmeasured = SampleRow(number, str(samples[number].picture), False, 0, 0, ())
            rows[number] = SampleResult(unmeasured)
        results.append(rows[number].with_messages(told[number]))
    return results
