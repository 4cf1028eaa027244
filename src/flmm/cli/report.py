"""``flmm report``: the paper's claims, measured on a model; tables and figures."""

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flmm.cli.console import tell, watched
from flmm.cli.options import Device, Dtype, Lmm, Model, load_grounder, need_packages
from flmm.errors import InputError

if TYPE_CHECKING:
    from flmm.data.sources import DataSource
    from flmm.report.context import Bench


class WhichClaim(StrEnum):
    """The claims, in the order that the report has them (``flmm.report.claims.CLAIMS``)."""

    GROUND = "ground"
    ABLATIONS = "ablations"
    CONVERSATION = "conversation"
    SEGMENTATION_TOKEN = "segmentation-token"
    WHERE = "where"
    CHAIN_OF_THOUGHT = "chain-of-thought"


def report(
    claims: Annotated[
        list[WhichClaim] | None,
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
        int, typer.Option(min=1, help="Other pictures, on which heads and levels are chosen.")
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
    model: Model = None,
    lmm: Lmm = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:  # fmt: skip
    """Measure the paper's claims on a model, and write tables and figures.

    What is in --out for the same model and settings is not measured again.
    """
    need_packages("report", "matplotlib", "accelerate", "pyarrow", "yaml")
    from flmm.report.claim import write_index
    from flmm.report.claims import CLAIMS
    from flmm.report.context import Bench
    from flmm.report.data import source_data, sticker_data

    if data is None:
        found = sticker_data(work / "scenes", scenes, calibration, training)
    else:
        found = source_data(read_source(data), data.parent, scenes, calibration, training)
    grounder = load_grounder(model, lmm, device, dtype)
    with watched() as watch:
        bench = Bench(grounder, found, work, tell, watch)
        for name in suited_claims(claims, bench):
            begun = time.monotonic()
            CLAIMS[name].run(bench, out)
            tell(f"{name}: {out / name}.md ({time.monotonic() - begun:.0f} s)")
    page = write_index(out, [str(name) for name in WhichClaim])
    print(page)


def suited_claims(claims: list[WhichClaim] | None, bench: "Bench") -> list[WhichClaim]:
    """The wanted claims, checked before any is measured; without a wish, all that can be."""
    from flmm.report.claims import CLAIMS

    suited = []
    for name in claims or list(WhichClaim):
        try:
            CLAIMS[name].check(bench)
        except InputError as error:
            if claims:
                raise
            tell(f"{name}: left out ({error})")
        else:
            suited.append(name)
    return suited


def read_source(file: Path) -> "DataSource":
    """The one data source that a file names."""
    import yaml

    from flmm.data.sources import check_sources

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{str(file)!r} cannot be read as YAML ({error}); check it") from error
    (source,) = check_sources([content])
    return source
