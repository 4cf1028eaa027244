"""``flmm report``: tables and figures of the paper's claims, measured on a model."""

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flmm.cli.console import print_message, show_progress
from flmm.cli.options import (
    DeviceOption,
    DtypeOption,
    LMMOption,
    ModelOption,
    SamOption,
    load_grounder,
    require_packages,
)
from flmm.errors import InputError

if TYPE_CHECKING:
    from flmm.data.sources import DataSource
    from flmm.report.context import ReportContext


class ClaimName(StrEnum):
    """The claims, in the report's order (``flmm.report.claims.CLAIMS``)."""

    GROUND = "ground"
    ABLATIONS = "ablations"
    CONVERSATION = "conversation"
    SEGMENTATION_TOKEN = "segmentation-token"
    WHERE = "where"
    CHAIN_OF_THOUGHT = "chain-of-thought"


def report(
    claims: Annotated[
        list[ClaimName] | None,
        typer.Argument(
            metavar="[CLAIM]...",
            show_default=False,
            help="ground (masks without training beside the head's), ablations (what matters in"
            " the head), conversation (the same answers with and without grounding),"
            " segmentation-token (what becomes of a copy of the LMM that is trained to segment),"
            " where (which layers and heads show what words mean), chain-of-thought (what a closer"
            " look at what was located tells); by default all that suit the model and the data.",
        ),
    ] = None,
    scenes: Annotated[
        int, typer.Option(min=2, help="Pictures to measure on.")
    ] = 200,
    calibration: Annotated[
        int, typer.Option(min=1, help="Other pictures, to choose heads and thresholds on.")
    ] = 60,
    training: Annotated[
        int, typer.Option(min=1, help="Further ones, from which small decoders learn.")
    ] = 96,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="FILE", show_default=False,
            help="A YAML file with one data source (docs/data.md); by default sticker scenes.",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Tables, figures and numbers go there; the"
                           " page that joins them beside it.")
    ] = Path("docs/report"),
    work: Annotated[
        Path, typer.Option("--work", metavar="DIR", help="What a run that was cut off goes on from")
    ] = Path("build/report"),
    model: ModelOption = None,
    lmm: LMMOption = None,
    sam: SamOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
) -> None:  # fmt: skip
    """Measure the paper's claims on a model, and write tables and figures.

    What is in --out for the same model and settings is not measured again.
    """
    require_packages("report", "matplotlib", "accelerate", "pyarrow", "yaml")
    from flmm.report.claim import write_page
    from flmm.report.claims import CLAIMS
    from flmm.report.context import ReportContext
    from flmm.report.data import read_source_data, read_sticker_data

    if data is None:
        report_data = read_sticker_data(work / "scenes", scenes, calibration, training)
    else:
        source = read_data_source(data)
        report_data = read_source_data(source, data.parent, scenes, calibration, training)
    grounder = load_grounder(model, lmm, sam, device, dtype)
    with show_progress() as on_progress:
        context = ReportContext(grounder, report_data, work, print_message, on_progress)
        for name in select_claims(claims, context):
            start = time.monotonic()
            CLAIMS[name].run(context, out)
            print_message(f"{name}: {out / name}.md ({time.monotonic() - start:.0f} s)")
    page = write_page(out, [str(name) for name in ClaimName])
    print(page)


def select_claims(requested: list[ClaimName] | None, context: "ReportContext") -> list[ClaimName]:
    """Return the requested claims, all checked before any is measured; None for all that can be."""
    from flmm.report.claims import CLAIMS

    selected = []
    for name in requested or list(ClaimName):
        try:
            CLAIMS[name].check(context)
        except InputError as error:
            if requested:
                raise
            print_message(f"{name}: left out ({error})")
        else:
            selected.append(name)
    return selected


def read_data_source(file: Path) -> "DataSource":
    """Return the one data source that a YAML file names."""
    import yaml

    from flmm.data.sources import check_sources

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{str(file)!r} cannot be read as YAML ({error}); check it") from error
    (source,) = check_sources([content])
    return source
