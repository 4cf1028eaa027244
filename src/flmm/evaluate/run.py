"""The run: samples are read, measured and kept part by part, on one process or several.

A part is a fixed group of samples that run through the LMM together, so neither the number of
processes nor a break changes any number.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from accelerate import PartialState

from flmm.data.exchanges import Protocol
from flmm.data.sample import Sample
from flmm.data.sample_loader import Reading
from flmm.distributed import agree, first_does
from flmm.errors import InputError
from flmm.evaluate.benchmark import Benchmark, Scoring, claim, record_of
from flmm.evaluate.evaluators import GivenTexts, NumberedSample, OwnWords
from flmm.evaluate.results import check_part, merge, part_file, write_part
from flmm.evaluate.rows import SampleResult, SampleRow
from flmm.grounding.grounder import Grounder

# A text of a large LMM has maps of some megabytes a token, and all of a part's are held at once.
_SAMPLES_A_PART = 4


def evaluate(
    grounder: Grounder,
    benchmark: Benchmark,
    protocol: Protocol,
    out: Path,
    state: PartialState,
    tell: Callable[[str], None],
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
    agree(lambda: claim(out, record_of(grounder, benchmark, protocol)))
    measure = (
        OwnWords(grounder, benchmark.name)
        if benchmark.scoring is Scoring.CONVERSATION
        else GivenTexts(grounder, benchmark.name, protocol)
    )
    count = len(benchmark.samples)
    parts = -(-count // _SAMPLES_A_PART)
    own = {
        number: range(number * _SAMPLES_A_PART, min((number + 1) * _SAMPLES_A_PART, count))
        for number in range(state.process_index, parts, state.num_processes)
    }

    def measure_own() -> None:
        done, total = 0, sum(map(len, own.values()))
        for number, members in own.items():
            file = part_file(out, number)
            if not _is_there(file, members, tell):
                write_part(file, _measure(measure, benchmark.samples, members, tell))
            done += len(members)
            advance(done, total)

    agree(measure_own)
    first_does(lambda: merge(out, parts))


def _is_there(file: Path, members: Sequence[int], tell: Callable[[str], None]) -> bool:
    try:
        return check_part(file, members)
    except InputError as error:
        tell(f"{error} (this is done now)")
        return False


def _measure(
    measure: GivenTexts | OwnWords,
    samples: Sequence[Sample],
    members: Sequence[int],
    tell: Callable[[str], None],
) -> list[SampleResult]:
    """The rows of a part, those of samples that were skipped too."""
    told: dict[int, list[str]] = {number: [] for number in members}

    def skip(number: int, line: str) -> None:
        told[number].append(line)
        tell(line)

    numbered: list[NumberedSample] = []
    for number in members:
        reading = Reading(lambda line, number=number: skip(number, line))  # type: ignore[misc]
        numbered.extend(NumberedSample(number, read) for read in reading.read([samples[number]]))
    rows: dict[int, SampleResult] = {}
    for sample, result in zip(numbered, measure.measure(numbered), strict=True):
        if isinstance(result, InputError):
            skip(sample.number, f"skipped {sample.picture!r}: {result}")
        else:
            rows[sample.number] = result
    results = []
    for number in members:
        if number not in rows:
            unmeasured = SampleRow(number, str(samples[number].picture), False, 0, 0, ())
            rows[number] = SampleResult(unmeasured)
        results.append(rows[number].with_told(told[number]))
    return results
