"""``flmm train``: the training of a grounding head for any LMM."""

import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flmm.cli.console import print_json, print_message, show_progress
from flmm.cli.options import DeviceOption, DtypeOption, JsonOption, require_packages

if TYPE_CHECKING:
    from flmm.train.run import TrainingResult


def train(
    settings: Annotated[
        Path, typer.Argument(metavar="SETTINGS", help="A YAML file; see docs/training.md.")
    ],
    lmm: Annotated[
        str | None, typer.Option(metavar="LMM", help="Folder or hub id of the frozen LMM.")
    ] = None,
    sam: Annotated[
        str | None, typer.Option(metavar="SAM", help="Folder or hub id of the refiner's SAM.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The run's folder.")] = None,
    cache: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where features are kept, so that the LMM runs once."),
    ] = None,
    heads: Annotated[
        int | None, typer.Option(metavar="K", help="Keep only the K most useful attention maps.")
    ] = None,
    epochs: Annotated[int | None, typer.Option()] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pictures a step.")] = None,
    micro_batch_size: Annotated[
        int | None, typer.Option(help="Pictures that a process holds at a time.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option()] = None,
    mixed_precision: Annotated[str | None, typer.Option(help="no or bf16.")] = None,
    protocol: Annotated[
        str | None, typer.Option(help="How expressions are asked: together or one-by-one.")
    ] = None,
    tracker: Annotated[str | None, typer.Option(help="tensorboard, wandb or trackio.")] = None,
    seed: Annotated[int | None, typer.Option()] = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a grounding head for an LMM, which stays as it is; called again, go on.

    Flags stand above what the file says. On several GPUs: accelerate launch -m flmm.cli.main train
    SETTINGS; in several processes without one: torchrun --nproc-per-node N -m flmm.cli.main train
    SETTINGS.
    """
    require_packages("train", "accelerate", "yaml")
    from flmm.train.settings import read_settings

    flags = {
        "lmm": lmm, "sam": sam, "out": out, "cache": cache, "head.heads": heads, "epochs": epochs,
        "batch_size": batch_size, "micro_batch_size": micro_batch_size,
        "learning_rate": learning_rate, "mixed_precision": mixed_precision, "protocol": protocol,
        "tracker": tracker, "seed": seed, "device": device, "dtype": dtype,
    }  # fmt: skip
    overrides = {name: value for name, value in flags.items() if value is not None}
    training_settings = read_settings(settings, overrides)
    from flmm.train.run import train as run  # takes seconds

    # Trackers print on standard output, which is for the result alone.
    with redirect_stdout(sys.stderr), show_progress() as on_progress:
        result = run(training_settings, settings.parent, print_message, on_progress)
    # With several processes, only the first prints the result.
    if os.environ.get("RANK", "0") == "0":
        _print_result(result, as_json)


def _print_result(result: "TrainingResult", as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        print_json({**asdict(result), "head": str(result.head)})
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    if result.scores is not None:
        overall = {f"{result.scores.phrases} phrases": result.scores}
        by_source = {
            f"{name}, {scores.phrases} phrases": scores for name, scores in result.sources.items()
        }
        for title, scores in {**overall, **(by_source if len(by_source) > 1 else {})}.items():
            table = Table("", "cIoU", "mIoU", title=escape(title), box=None)
            for name, pair in (
                ("mask decoder", (scores.decoder_cumulative_iou, scores.decoder_mean_iou)),
                ("refined", (scores.refined_cumulative_iou, scores.refined_mean_iou)),
            ):
                table.add_row(name, *(f"{value:.3f}" for value in pair))
            console.print(table)
    best = f"best head: step {result.best_step} of {result.steps}, in {result.head}"
    console.print(best, markup=False, soft_wrap=True)
    if result.left_out:
        console.print(f"left out: {result.left_out} pictures or texts, listed above")
    console.print(f"padding: {result.padding:.1%} of what the LMM read")
    console.print(f'try it: flmm segment PICTURE "PHRASE" --model {result.head}', soft_wrap=True)
