"""A Ray cluster: connected to for a while, and what an actor gets of it."""

import logging
import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

import ray

from flmm.errors import InputError, first_line

_PATIENCE = 10.0
"""Seconds in which a cluster answers."""


@dataclass(frozen=True)
class ActorPool:
    """How many actors work, and where."""

    min_size: int = 1
    max_size: int = 1
    """As many as Ray finds room for, with an autoscaler also by making it."""
    address: str | None = None
    """Of the cluster; None for that of ``RAY_ADDRESS``, or of this machine, or a new one on it."""


@dataclass(frozen=True)
class ActorResources:
    """What an actor has for itself."""

    num_cpus: int
    num_gpus: int


@contextmanager
def connect(pool: ActorPool) -> Iterator[None]:
    """Be connected to the pool's cluster during the block; one that is already, stays.

    Raises:
        InputError: there is no such cluster.
    """
    if ray.is_initialized():
        yield
        return
    # Ray sends what it counts to its makers unless this is said before it starts.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = pool.address or os.environ.get("RAY_ADDRESS")
    if address and address.startswith("ray://"):
        raise InputError(
            f"Ray Data cannot work through Ray's client, {address!r}; call this on a machine of the"
            " cluster, or give the address of its head, such as 10.0.0.1:6379"
        )
    try:
        _check_reachable(address or "")
        ray.init(address=pool.address, logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"Ray cannot be reached at {address or 'this machine'!r} ({first_line(error)}); check"
            " --address, and set RAY_AUTH_MODE=token if the cluster asks for one"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raise an OSError where nothing listens, for which Ray waits some minutes."""
    place = urlsplit(f"//{address}")
    if place.hostname and place.port:
        socket.create_connection((place.hostname, place.port), _PATIENCE).close()


def enter_folder(folder: str) -> None:
    """Go where the command was called, so that relative paths mean the same on a node.

    A node without this folder stays where it is.
    """
    with suppress(OSError):
        os.chdir(folder)


def plan_actor(pool: ActorPool, device: str | None) -> ActorResources:
    """Return a GPU for each actor where there are any, else an equal share of a node's cores.

    Args:
        pool: of the actors, in a cluster that is connected to.
        device: of the models; None for a GPU where there is one.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    has_gpu = any(node.get("GPU") for node in nodes)
    if has_gpu if device is None else device.startswith("cuda"):
        return ActorResources(num_cpus=1, num_gpus=1)
    cores = [int(node["CPU"]) for node in nodes if node.get("CPU")]
    actors_a_node = math.ceil(pool.max_size / max(len(cores), 1))
    return ActorResources(max(min(cores, default=1) // actors_a_node, 1), 0)
