"""``flmm evaluate``: masks measured on a benchmark, and their tables."""

from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flmm.cli.answer_benchmark import (
    check_answer_options,
    join_judgements,
    read_answer_benchmark,
)
from flmm.cli.benchmark_source import read_benchmark
from flmm.cli.console import print_message, show_stage_progress
from flmm.cli.evaluation_report import print_report
from flmm.cli.options import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    LMMOption,
    ModelOption,
    SamOption,
    check_unused_options,
    load_grounder,
    require_packages,
)
from flmm.cli.text_encoder import TextEncoderOption, compare_and_report, load_text_encoder
from flmm.errors import InputError

if TYPE_CHECKING:
    from flmm.evaluate.answers.judge import Judge
    from flmm.evaluate.benchmark import Benchmark
    from flmm.evaluate.score_tables import EvaluationReport

_TABLE_OPTIONS = ("table", "beside", "text_encoder", "as_json")
"""What has a meaning for the tables of a finished run."""
_PROCESS_TIMEOUT = timedelta(days=7)
"""How long a process may wait for the slowest one."""


class ProtocolChoice(StrEnum):
    """How referring expressions are asked (``flmm.data.exchanges.ReferringProtocol``)."""

    TOGETHER = "together"
    ONE_BY_ONE = "one-by-one"


class BesideChoice(StrEnum):
    """What stands beside a run's own figures."""

    PUBLISHED = "published"


class MethodChoice(StrEnum):
    """Published methods without training (``flmm.training_free.baselines.by_name.BASELINES``)."""

    ATTEND_AND_SEGMENT = "attend-and-segment"
    LOCALIZATION_HEADS = "localization-heads"
    DECAF = "decaf"
    TOKEN_ACTIVATION_MAPS = "token-activation-maps"


def evaluate(
    context: typer.Context,
    benchmark: Annotated[
        str | None,
        typer.Argument(
            metavar="BENCH",
            show_default=False,
            help="A YAML file with one data source, or a source's kind (refcoco, "
            "panoptic_narratives, grounded_conversation, reason_seg, viscot, coco, plain, "
            "stickers) with the options below.",
        ),
    ] = None,
    protocol: Annotated[
        ProtocolChoice | None,
        typer.Option(
            show_default=False,
            help="How referring expressions are asked: all of a picture in one text, or each alone;"
            " by default together, and one-by-one where each has a question of its own (stickers).",
        ),
    ] = None,
    method: Annotated[
        MethodChoice | None,
        typer.Option(
            show_default=False,
            help="Measure this published method, in place of flmm's own, with --lmm and a SAM.",
        ),
    ] = None,
    think: Annotated[
        bool,
        typer.Option(
            "--think",
            help="Measure the LMM's answers, plain and after a closer look (viscot; FILE may be the"
            " folder of all its files).",
        ),
    ] = False,
    judge: Annotated[
        tuple[str, str] | None,
        typer.Option(
            "--judge", metavar="URL MODEL", show_default=False,
            help="With --think: have a model of an OpenAI-compatible server score the answers.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            show_default=False,
            help="Where results go, and a run that was cut off goes on; by default "
            "flmm-evaluation/ with the benchmark's, the protocol's and the model's name.",
        ),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(
            "--table", metavar="DIR", show_default=False,
            help="Run nothing: cut the tables anew from the results in DIR.",
        ),
    ] = None,
    beside: Annotated[
        BesideChoice | None,
        typer.Option(
            show_default=False,
            help="What stands beside this run's figures: published ones, with their sources.",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(show_default=False, help="The data set's name in tables."),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(show_default=False, help="A data set's folder.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(show_default=False, help="A data set's file.")
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(show_default=False, help="The folder of its pictures.")
    ] = None,
    part: Annotated[
        str | None, typer.Option(show_default=False, help="Its part: val, testA, testB, test …")
    ] = None,
    split_by: Annotated[
        str | None, typer.Option(show_default=False, help="RefCOCO's: unc, umd or google.")
    ] = None,
    scenes: Annotated[
        int | None, typer.Option(show_default=False, help="How many scenes of stickers.")
    ] = None,
    first_scene: Annotated[
        int | None, typer.Option(show_default=False, help="The first scene of stickers.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(show_default=False, help="Only the first so many pictures.")
    ] = None,
    model: ModelOption = None,
    lmm: LMMOption = None,
    sam: SamOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    text_encoder: TextEncoderOption = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Measure masks, of a head or without one, on a benchmark, the way that papers do."""
    require_packages("evaluate", "accelerate", "pyarrow", "yaml")
    options: dict[str, object] = {
        key: value
        for key, value in {
            "name": name, "folder": folder, "file": file, "pictures": pictures, "part": part,
            "split_by": split_by, "scenes": scenes, "first_scene": first_scene, "limit": limit,
        }.items()
        if value is not None
    }  # fmt: skip
    if table is not None:
        used = _TABLE_OPTIONS if text_encoder is None else (*_TABLE_OPTIONS, "device")
        check_unused_options(context, "--table cuts tables of a finished run", used)
        from flmm.evaluate.benchmark import read_run_record

        encoder = load_text_encoder(text_encoder, read_run_record(table).scoring, device)
        print_report(compare_and_report(table, encoder), table, as_json, beside is not None)
        return
    if benchmark is None:
        raise InputError("no benchmark is given; name a YAML file or a kind, or --table DIR")
    answer_judge = check_answer_options(context, think, judge)
    loaded = (read_answer_benchmark if think else read_benchmark)(benchmark, options)
    encoder = load_text_encoder(text_encoder, loaded.scoring, device)
    result = _run_benchmark(
        loaded, protocol, method, answer_judge, out, model, lmm, sam, device, dtype
    )
    if result is not None:
        report, out = result
        if encoder is not None:
            report = compare_and_report(out, encoder)
        print_report(report, out, as_json, beside is not None)


def _run_benchmark(
    benchmark: "Benchmark",
    protocol: ProtocolChoice | None,
    method: MethodChoice | None,
    judge: "Judge | None",
    out: Path | None,
    model: str | None,
    lmm: str | None,
    sam: str | None,
    device: str | None,
    dtype: str | None,
) -> "tuple[EvaluationReport, Path] | None":
    """Run the benchmark; return its report and folder, None in all processes but the first."""
    from accelerate import PartialState

    from flmm.data.exchanges import ReferringProtocol
    from flmm.evaluate.benchmark import Scoring, build_run_name
    from flmm.evaluate.reports import build_report
    from flmm.evaluate.run import evaluate as run
    from flmm.evaluate.worst_phrases import write_worst_phrases

    state = PartialState(cpu=device == "cpu", timeout=_PROCESS_TIMEOUT)
    try:
        if state.num_processes > 1 and device is None:
            device = str(state.device)
        grounder = load_grounder(model, lmm, sam, device, dtype)
        baseline = None if method is None else method.value
        asked = ReferringProtocol(protocol.value) if protocol else benchmark.default_protocol
        has_answers = benchmark.scoring is Scoring.ANSWERS
        if out is None:
            way = "think" if has_answers else asked
            name = build_run_name(grounder, benchmark.name, way, baseline)
            out = Path("flmm-evaluation") / name
        with show_stage_progress(f"measuring {benchmark.name}", state.is_main_process) as advance:
            run(
                grounder,
                benchmark,
                asked,
                out,
                state,
                print_message,
                advance,
                baseline,
            )
        if has_answers:
            shown = state.is_main_process and judge is not None
            with show_stage_progress("judging", shown) as advance:
                join_judgements(out, judge, advance)
        report = None
        if state.is_main_process:
            report = build_report(out)
            if not has_answers:
                write_worst_phrases(out)
    finally:
        # A process that ends with its group alive can abort while others wait for it.
        state.destroy_process_group()
    return None if report is None else (report, out)
