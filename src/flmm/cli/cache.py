"""``flmm cache``: the features of a training's pictures, made ahead by many processes."""

import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from flmm.cli.batch_progress import show_batch_progress
from flmm.cli.console import print_json, print_message
from flmm.cli.engine import (
    AddressOption,
    Engine,
    EngineOption,
    ShardOption,
    WorkersOption,
    parse_shard,
    parse_workers,
)
from flmm.cli.options import DeviceOption, DtypeOption, JsonOption, require_packages


def cache(
    settings: Annotated[
        Path,
        typer.Argument(metavar="SETTINGS", help="A YAML file, that of flmm train, with cache."),
    ],
    lmm: Annotated[
        str | None, typer.Option(metavar="LMM", help="Folder or hub id of the frozen LMM.")
    ] = None,
    sam: Annotated[
        str | None, typer.Option(metavar="SAM", help="Folder or hub id of the refiner's SAM.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The run's folder.")] = None,
    folder: Annotated[
        Path | None, typer.Option("--cache", metavar="DIR", help="Where features are kept.")
    ] = None,
    heads: Annotated[
        int | None, typer.Option(metavar="K", help="Keep only the K most useful attention maps.")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="How expressions are asked: together or one-by-one.")
    ] = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    shard: ShardOption = "0/1",
    engine: EngineOption = Engine.LOCAL,
    workers: WorkersOption = "1",
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fill the feature cache of flmm train, which then begins without the LMM; go on if stopped.

    Give the flags that the training gets.
    """
    num_workers = parse_workers(workers, engine, address)
    part = parse_shard(shard)
    require_packages("train", "accelerate", "yaml")
    from flmm.train.settings import read_settings

    flags = {
        "lmm": lmm, "sam": sam, "out": out, "cache": folder, "head.heads": heads,
        "protocol": protocol, "device": device, "dtype": dtype,
    }  # fmt: skip
    overrides = {name: value for name, value in flags.items() if value is not None}
    training_settings = read_settings(settings, overrides)
    from flmm.batch.cache_job import CacheJob  # takes seconds

    job = CacheJob(training_settings, settings.parent, print_message, part)
    with redirect_stdout(sys.stderr), show_batch_progress(None) as on_progress:
        if engine is Engine.RAY:
            from flmm.batch.ray.cache_engine import fill_cache_on_ray
            from flmm.batch.ray.cluster import ActorPool

            summary, place = fill_cache_on_ray(job, ActorPool(*num_workers, address), on_progress)
        elif num_workers[1] > 1:
            from flmm.batch.workers import run_workers

            summary, place = run_workers(job, num_workers[1], on_progress)
        else:
            summary, place = job.run_alone(on_progress)
    if as_json:
        counts = asdict(summary)
        del counts["changed"], counts["gone"]
        print_json({"cache": str(place), "pictures": counts.pop("items"), **counts})
        return
    print(
        f"{summary.items} pictures, {summary.new} of them new"
        f"{f', {summary.failed} cannot be read' if summary.failed else ''}: {place}"
    )
