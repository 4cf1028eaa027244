"""``flmm results``: what a batch has done so far, its failures, and some of its pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flmm.cli.console import print_json, replace_control_characters
from flmm.cli.options import JsonOption

if TYPE_CHECKING:
    from flmm.exports.contact_sheet import ResultsOverview


def results(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="RESULTS", show_default=False, help="The results of flmm batch: --out."
        ),
    ],
    failures: Annotated[
        int, typer.Option(metavar="NUMBER", min=0, help="List so many failures.")
    ] = 20,
    sheet: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", show_default=False, help="Draw some pictures and their masks there."
        ),
    ] = None,
    sample: Annotated[
        int, typer.Option(metavar="NUMBER", min=1, help="So many pictures on the sheet, by chance.")
    ] = 12,
    as_json: JsonOption = False,
) -> None:
    """Count the results of a batch and list its failures, also while it runs."""
    from flmm.answers.image_files import check_output_path, save_image
    from flmm.exports.contact_sheet import draw_contact_sheet, read_overview

    if sheet is not None:
        check_output_path(sheet)
    overview = read_overview(path, failures, 0 if sheet is None else sample)
    unreadable: dict[str, str] = {}
    if sheet is not None:
        drawn = draw_contact_sheet(path, overview.sample)
        unreadable = drawn.unreadable
        save_image(drawn.image, sheet)
    if as_json:
        print_json(
            {
                "results": overview.results,
                "failed": overview.failed,
                "phrases": overview.phrases,
                "failures": overview.failures,
                "not_drawn": unreadable,
            }
        )
        return
    _print(overview)
    for name, reason in unreadable.items():
        print(replace_control_characters(f"not drawn: {name}: {reason}"))
    if sheet is not None:
        print(f"sheet: {sheet}")


def _print(overview: "ResultsOverview") -> None:
    print(
        f"{overview.results:,} results, {overview.failed:,} of them failures;"
        f" {overview.phrases:,} phrases"
    )
    for name, reason in overview.failures.items():
        print(replace_control_characters(f"{name}: {reason}"))
    if overview.failed > len(overview.failures):
        print(f"and {overview.failed - len(overview.failures):,} more (--failures NUMBER)")
