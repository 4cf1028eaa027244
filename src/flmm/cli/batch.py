"""``flmm batch``: ask about many pictures, or segment them, into one file of results."""

from pathlib import Path
from typing import Annotated

import typer

from flmm.cli.console import is_terminal, print_json
from flmm.cli.options import (
    Device,
    Dtype,
    Json,
    Lmm,
    MaxNewTokens,
    Model,
    Refine,
    load_grounder,
)
from flmm.errors import InputError


def batch(
    work: Annotated[
        Path,
        typer.Argument(
            metavar="PICTURES",
            show_default=False,
            help="A folder of pictures; or a list, one JSON object a line with image (relative to"
            " the list's folder) and question or phrases.",
        ),
    ],
    question: Annotated[
        str | None,
        typer.Argument(
            metavar="[QUESTION]",
            show_default=False,
            help="About every picture; in a list, about those without one.",
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option("--out", metavar="FILE", help="Of results, one JSON object a line."),
    ] = Path("results.jsonl"),
    overlays: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", show_default=False, help="Also draw each answer there."),
    ] = None,
    together: Annotated[
        int,
        typer.Option(min=1, help="So many pictures at a time; less where memory is short."),
    ] = 8,
    max_new_tokens: MaxNewTokens = 256,
    refine: Refine = True,
    model: Model = None,
    lmm: Lmm = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Json = False,
) -> None:
    """Ask about many pictures; the same command goes on where it was stopped."""
    from flmm.batch.results import Results
    from flmm.batch.run import work_through
    from flmm.batch.tasks import read_tasks

    folder, tasks = read_tasks(work, question)
    if overlays is not None:
        try:
            overlays.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"--overlays {str(overlays)!r} cannot be made ({error.strerror}); choose another"
            ) from error
    grounder = load_grounder(model, lmm, device, dtype)
    results = Results(out, tasks, grounder.model, grounder.lmm)

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not is_terminal()) as progress:
        bar = progress.add_task("pictures", total=len(tasks), completed=results.done)
        outcomes = work_through(
            grounder,
            folder,
            tasks[results.done :],
            together=together,
            max_new_tokens=max_new_tokens,
            refine=refine,
        )
        for some in outcomes:
            if overlays is not None:
                for number, outcome in enumerate(some, results.done + 1):
                    if outcome.answer is not None:
                        name = f"{number:06d}-{Path(outcome.task.image).stem}.png"
                        outcome.answer.save(overlays / name)
            results.add(some)
            progress.advance(bar, len(some))
    if as_json:
        print_json({"out": str(out), "pictures": results.done, "failed": results.failed})
        return
    failed = f", {results.failed} of them with an error in the place of an answer"
    print(f"{results.done} pictures{failed if results.failed else ''}: {out}")
