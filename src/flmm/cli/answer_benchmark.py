"""``flmm evaluate --think``: its options, its benchmark, and its judge."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from flmm.cli.benchmark_source import read_entry
from flmm.cli.console import print_message
from flmm.cli.options import check_unused_options, require_packages
from flmm.errors import InputError

if TYPE_CHECKING:
    from flmm.data.sample import Sample
    from flmm.data.sources import DataSource
    from flmm.evaluate.answers.judge import Judge
    from flmm.evaluate.benchmark import Benchmark

_MASK_OPTIONS = {"protocol", "method", "beside"}
"""What has a meaning for masks alone."""


def check_answer_options(
    context: typer.Context, think: bool, judge: tuple[str, str] | None
) -> "Judge | None":
    """Check the options of answers against the others; return the judge."""
    if think:
        used = context.params.keys() - _MASK_OPTIONS
        check_unused_options(context, "--think measures answers", used)
        require_packages("evaluate", "openai")
    elif judge is not None:
        raise InputError("--judge scores answers, which --think asks for; give both")
    if judge is None:
        return None
    from flmm.evaluate.answers.judge import Judge

    return Judge(*judge)


def read_answer_benchmark(benchmark: str, options: dict[str, object]) -> "Benchmark":
    """Read the data sets that the arguments name: one, a YAML's list, or a folder of Visual CoT."""
    from flmm.data.sources import check_sources, read_sources

    content, base = read_entry(benchmark, options)
    entries = content if isinstance(content, list) else [content]
    named = check_sources(entries)
    name = named[0].name if len(named) == 1 else Path(benchmark).stem
    # Checked again, since files of two folders may have the same name.
    sources = check_sources(
        [_describe(file) for source in named for file in _expand_folder(source, base)]
    )
    samples = {
        dataset: _keep_answered(dataset, own)
        for dataset, own in read_sources(sources, base).items()
    }
    from flmm.evaluate.benchmark import Benchmark, Scoring  # takes seconds

    return Benchmark(
        name,
        {"sources": [_describe(source) for source in sources]},
        [sample for own in samples.values() for sample in own],
        Scoring.ANSWERS,
        [dataset for dataset, own in samples.items() for _ in own],
    )


def join_judgements(out: Path, judge: "Judge | None", advance: Callable[[int, int], None]) -> None:
    """Have the answers of a run judged; without a judge, take those of the last one."""
    from flmm.distributed import run_on_main_process
    from flmm.evaluate.answers.judgements import join_last_judge, judge_answers

    if judge is None:
        run_on_main_process(lambda: join_last_judge(out))
    else:
        run_on_main_process(lambda: judge_answers(out, judge, advance))


def _expand_folder(source: "DataSource", base: Path) -> "Iterator[DataSource]":
    """Yield one source for each file of a folder, named after the file."""
    from flmm.data.sources import VisCotSource

    if not isinstance(source, VisCotSource) or not (base / source.file).is_dir():
        yield source
        return
    names = sorted(file.name for file in (base / source.file).glob("*.json"))
    if not names:
        raise InputError(f"there is no .json in {str(base / source.file)!r}; check --file")
    for name in names:
        yield source.model_copy(update={"name": Path(name).stem, "file": source.file / name})


def _describe(source: "DataSource") -> dict[str, object]:
    return source.model_dump(mode="json", exclude_none=True)


def _keep_answered(dataset: str, samples: "Sequence[Sample]") -> "list[Sample]":
    """Return the samples with those texts that have a true answer; say how many have none."""
    answered = [
        replace(sample, texts=texts)
        for sample in samples
        if (texts := tuple(text for text in sample.texts if (text.answer or "").strip()))
    ]
    num_all, num_answered = (
        sum(len(sample.texts) for sample in each) for each in (samples, answered)
    )
    if not answered:
        raise InputError(
            f"data {dataset!r} has no question with a true answer, which --think compares with;"
            " viscot has"
        )
    if num_answered < num_all:
        print_message(
            f"left out {num_all - num_answered} questions of {dataset!r} without a true answer"
        )
    return answered
