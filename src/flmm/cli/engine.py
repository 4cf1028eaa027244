"""Where long work runs: the options of the commands that many machines may share."""

import re
from enum import StrEnum

from flmm.cli.options import require_packages
from flmm.errors import InputError


class Engine(StrEnum):
    """What runs the processes of a command."""

    LOCAL = "local"
    RAY = "ray"


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
