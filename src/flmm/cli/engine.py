"""Where long work runs: the options of the commands that many machines may share."""

import re
from enum import StrEnum
from typing import Annotated

import typer

from flmm.cli.options import require_packages
from flmm.errors import InputError


class Engine(StrEnum):
    """What runs the processes of a command."""

    LOCAL = "local"
    RAY = "ray"


ShardOption = Annotated[
    str,
    typer.Option(
        metavar="I/N",
        help="Do the Ith of N parts of the pictures, I from 0; N such runs may share a folder.",
    ),
]
EngineOption = Annotated[
    Engine, typer.Option(help="Where the models run: on this machine, or on a Ray cluster.")
]
WorkersOption = Annotated[
    str,
    typer.Option(
        metavar="N",
        help="So many processes, each with the models: one a GPU, or, without a GPU, one or two"
        " cores each. Needs a folder for results. With --engine ray so many actors, or such as 2-8:"
        " as many as there is room for.",
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        show_default=False,
        help="Of the Ray cluster; without it, RAY_ADDRESS, or this machine.",
    ),
]


def parse_workers(workers: str, engine: Engine, address: str | None) -> tuple[int, int]:
    """Return the least and the greatest number of workers.

    Args:
        workers: N or, with Ray, MIN-MAX.
        engine: whose packages must be there.
        address: of a Ray cluster.

    Raises:
        InputError: the number is none, or does not suit the engine.
    """
    if engine is Engine.RAY:
        require_packages("ray", "ray", "pyarrow")
    elif address is not None:
        raise InputError(f"--address {address!r} is for --engine ray; give both")
    matched = re.fullmatch(r"(\d+)(?:-(\d+))?", workers)
    fewest, most = (int(matched[1]), int(matched[2] or matched[1])) if matched else (0, 0)
    if not 1 <= fewest <= most:
        raise InputError(f"--workers is {workers!r}; give a number, or such as 2-8")
    if fewest < most and engine is not Engine.RAY:
        raise InputError(f"--workers {workers} is for --engine ray; give one number")
    return fewest, most


def parse_shard(shard: str) -> tuple[int, int]:
    """Return (I, N) of the Ith of N parts of the work.

    Raises:
        InputError: it is none.
    """
    matched = re.fullmatch(r"(\d+)/(\d+)", shard)
    if matched is None or int(matched[1]) >= int(matched[2]):
        raise InputError(f"--shard is {shard!r}; give one such as 0/3, 1/3 or 2/3")
    return int(matched[1]), int(matched[2])
