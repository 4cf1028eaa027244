"""``flmm batch``: questions about many pictures, or phrases to segment, into one results file."""

from pathlib import Path
from typing import Annotated

import typer

from flmm.cli.console import is_terminal, print_json
from flmm.cli.options import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    LMMOption,
    MaskThresholdOption,
    MaxNewTokensOption,
    MinMaskRegionAreaOption,
    MinScoreOption,
    ModelOption,
    RefineOption,
    SamOption,
    check_mask_options,
    load_grounder,
)
from flmm.errors import InputError


def batch(
    pictures: Annotated[
        Path,
        typer.Argument(
            metavar="PICTURES",
            show_default=False,
            help="A folder of pictures; or a list, one JSON object a line with image (relative to"
            " the list's folder) and a question, phrases, or a text to ground (also with phrases of"
            " it).",
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
    max_new_tokens: MaxNewTokensOption = 256,
    refine: RefineOption = True,
    mask_threshold: MaskThresholdOption = 0.5,
    min_score: MinScoreOption = 0.0,
    min_mask_region_area: MinMaskRegionAreaOption = 0,
    model: ModelOption = None,
    lmm: LMMOption = None,
    sam: SamOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask about many pictures; the same command goes on where it was stopped."""
    from flmm.batch.results import ResultsFile
    from flmm.batch.run import describe_mask_model, run_tasks
    from flmm.batch.tasks import read_tasks

    masks = check_mask_options(refine, mask_threshold, min_score, min_mask_region_area)
    folder, tasks = read_tasks(pictures, question)
    if overlays is not None:
        try:
            overlays.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"--overlays {str(overlays)!r} cannot be made ({error.strerror}); choose another"
            ) from error
    grounder = load_grounder(model, lmm, sam, device, dtype)
    mask_model = describe_mask_model(grounder, masks)
    results = ResultsFile(out, tasks, grounder.model, grounder.lmm, mask_model)

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not is_terminal()) as progress:
        bar = progress.add_task("pictures", total=len(tasks), completed=results.num_done)
        result_batches = run_tasks(
            grounder,
            folder,
            tasks[results.num_done :],
            batch_size=together,
            max_new_tokens=max_new_tokens,
            mask_options=masks,
        )
        for result_batch in result_batches:
            if overlays is not None:
                for number, result in enumerate(result_batch, results.num_done + 1):
                    if result.answer is not None:
                        name = f"{number:06d}-{Path(result.task.image).stem}.png"
                        result.answer.save(overlays / name)
            results.append(result_batch)
            progress.advance(bar, len(result_batch))
    if as_json:
        print_json({"out": str(out), "pictures": results.num_done, "failed": results.num_failed})
        return
    failed = f", {results.num_failed} of them with an error in the place of an answer"
    print(f"{results.num_done} pictures{failed if results.num_failed else ''}: {out}")
