"""``flmm export``: results of ``flmm batch`` as files of annotation tools and data sets."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flmm.cli.console import print_json
from flmm.cli.options import JsonOption, MinScoreOption, check_mask_options, check_unused_options
from flmm.exports.formats import FORMATS_WITH_IMAGE_NAMES, ExportFormat

if TYPE_CHECKING:
    from flmm.exports.pictures import ExportCounts


def export(
    context: typer.Context,
    results: Annotated[
        Path,
        typer.Argument(metavar="RESULTS", show_default=False, help="The results of flmm batch."),
    ],
    to: Annotated[
        ExportFormat,
        typer.Option("--to", show_default=False, help="The files of which tool."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            show_default=False,
            help="New or empty; by default RESULTS' name with the format's behind it.",
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="A YAML file with lines such as 'the dog on the left: dog'; phrases that it does"
            " not have are left out. By default each phrase is its own label.",
        ),
    ] = None,
    min_score: MinScoreOption = 0.0,
    image_prefix: Annotated[
        str,
        typer.Option(
            metavar="TEXT",
            help="In front of each picture's name, such as its folder or its address.",
        ),
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Write the masks of many answers as files that other tools read."""
    from flmm.exports.labels import read_label_map
    from flmm.exports.pictures import LabelledPictures
    from flmm.exports.results import BatchResults
    from flmm.exports.run import EXPORTERS, check_export_folder, export_pictures

    if to not in FORMATS_WITH_IMAGE_NAMES:
        used = {"results", "to", "out", "labels", "min_score", "as_json"}
        check_unused_options(context, f"the files of {to} lie beside the pictures", used)
    check_mask_options(True, 0.5, min_score, 0)
    out = out or Path(f"{results.stem}-{to}")
    check_export_folder(out)
    label_map = None if labels is None else read_label_map(labels)
    batch = BatchResults(results)
    pictures = LabelledPictures(batch, label_map, min_score)
    export_pictures(pictures, to, out, image_prefix)
    if as_json:
        print_json({"out": str(out), **_describe(pictures.counts, batch.num_failed)})
        return
    counts = pictures.counts
    left_out = {
        "with an empty mask": counts.empty,
        "below --min-score": counts.below_min_score,
        "without a label": counts.unlabelled,
        "results with an error": batch.num_failed,
    }
    notes = ", ".join(f"{number} {what}" for what, number in left_out.items() if number)
    print(f"{counts.pictures} pictures, {counts.masks} masks: {out}")
    if notes:
        print(f"left out: {notes}")
    print(f"next: {EXPORTERS[to].next_step}")


def _describe(counts: "ExportCounts", num_failed: int) -> dict[str, object]:
    return {
        "pictures": counts.pictures,
        "masks": counts.masks,
        "empty": counts.empty,
        "below_min_score": counts.below_min_score,
        "unlabelled": counts.unlabelled,
        "failed": num_failed,
    }
