"""``flmm batch``: questions about many pictures, or phrases to segment, with results on disk."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flmm.cli.batch_progress import show_batch_progress
from flmm.cli.console import print_json
from flmm.cli.engine import (
    AddressOption,
    Engine,
    EngineOption,
    ShardOption,
    WorkersOption,
    parse_shard,
    parse_workers,
)
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
    require_packages,
)
from flmm.errors import InputError

if TYPE_CHECKING:
    from flmm.batch.run import BatchSummary


def batch(
    pictures: Annotated[
        str,
        typer.Argument(
            metavar="PICTURES",
            show_default=False,
            help="A folder of pictures; or a list, one JSON object a line with image (relative to"
            " the list's folder) and a question, questions, phrases, or a text to ground (also with"
            " phrases of it); or Parquet files or tar files of WebDataset. Also addresses, such as"
            " s3://bucket/folder.",
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
        typer.Option(
            "--out",
            metavar="PATH",
            help="Of results: a file of one JSON object a line if its name ends with .jsonl; else a"
            " folder of Parquet files, for more than some thousand pictures.",
        ),
    ] = Path("results.jsonl"),
    also: Annotated[
        bool,
        typer.Option(
            "--also",
            help="Where --out is for results of other settings, put these in a place beside them.",
        ),
    ] = False,
    keep_failures: Annotated[
        bool,
        typer.Option("--keep-failures", help="Do not try pictures again that failed before."),
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="End with code 2 if a picture has no answer.")
    ] = False,
    digest: Annotated[
        bool,
        typer.Option(
            "--digest",
            help="Know a changed picture by its content, not by its size and time of change.",
        ),
    ] = False,
    shard: ShardOption = "0/1",
    engine: EngineOption = Engine.LOCAL,
    workers: WorkersOption = "1",
    address: AddressOption = None,
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
    masks = check_mask_options(refine, mask_threshold, min_score, min_mask_region_area)
    num_workers = parse_workers(workers, engine, address)
    part = _check_place(out, shard, num_workers[1] if engine is Engine.LOCAL else 1, pictures)
    from flmm.batch.sources.open import open_source

    total = open_source(pictures, question, digest).count()
    if total == 0:
        raise InputError(f"{pictures!r} has no picture; nothing was done")
    if overlays is not None:
        try:
            overlays.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"--overlays {str(overlays)!r} cannot be made ({error.strerror}); choose another"
            ) from error
    works_here = engine is Engine.LOCAL and num_workers[1] == 1
    if works_here:
        grounder = load_grounder(model, lmm, sam, device, dtype)
    from flmm.batch.job import BatchJob, ModelNames
    from flmm.batch.settings import BatchSettings

    job = BatchJob(
        source=pictures,
        out=out,
        settings=BatchSettings(question, max_new_tokens, masks),
        models=ModelNames(model, lmm, sam, device, dtype),
        use_digests=digest,
        together=together,
        keep_failures=keep_failures,
        also=also,
        shard=part,
        overlays=overlays,
    )
    with show_batch_progress(None if total is None else total // part[1]) as on_progress:
        if works_here:
            summary, used_place = job.run(grounder, on_progress)
        elif engine is Engine.RAY:
            from flmm.batch.ray.cluster import ActorPool
            from flmm.batch.ray.engine import run_on_ray

            summary, used_place = run_on_ray(job, ActorPool(*num_workers, address), on_progress)
        else:
            from flmm.batch.workers import run_workers

            summary, used_place = run_workers(job, num_workers[1], on_progress)
    if as_json:
        print_json({"out": str(used_place), "pictures": summary.items, **asdict(summary)})
    else:
        print(_describe(summary, used_place))
    if strict and summary.failed:
        raise InputError(
            f"{summary.failed} of {summary.items} pictures have no answer (--strict); mend them and"
            " run the same command again"
        )


def _check_place(out: Path, shard: str, workers: int, pictures: str) -> tuple[int, int]:
    """Return the part of the work, checked with the place of results."""
    from flmm.batch.storage.open import ResultPlace

    if re.match(r"\w+:/", str(out)):
        address = str(out).replace(":/", "://", 1)
        raise InputError(
            f"--out {address!r} is an address; results need files that can be locked: give a folder"
            " here or on a shared file system"
        )
    place = ResultPlace(out)
    place.check()
    if not place.is_file or pictures.endswith(".parquet"):
        require_packages("batch", "pyarrow")
    part = parse_shard(shard)
    if place.is_file and part[1] * workers > 1:
        option = f"--shard {shard}" if part[1] > 1 else f"--workers {workers}"
        raise InputError(f"{option} needs a folder; give --out one, not {str(out)!r}")
    return part


def _describe(summary: "BatchSummary", out: Path) -> str:
    parts = [f"{summary.items} pictures"]
    if summary.new < summary.items:
        parts.append(f"{summary.items - summary.new} of them done before")
    if summary.failed:
        parts.append(f"{summary.failed} of them with an error in the place of an answer")
    if summary.gone:
        parts.append(f"and results of {summary.gone} that are gone")
    return f"{', '.join(parts)}: {out}"
