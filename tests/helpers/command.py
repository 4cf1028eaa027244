"""Runs the command `flmm` and keeps how it ended."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from flmm.cli.main import run

COMMAND = (sys.executable, "-c", "from flmm.cli.main import run; run()")


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


def in_process(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> Ended:
    with pytest.raises(SystemExit) as ended:
        run(arguments)
    shown = capsys.readouterr()
    assert ended.value.code is None or isinstance(ended.value.code, int)
    return Ended(ended.value.code or 0, shown.out, shown.err)


def in_new_process(*arguments: str) -> Ended:
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False)
    return Ended(done.returncode, done.stdout, done.stderr)


def in_two_processes(*arguments: str, code: str = COMMAND[-1]) -> list[Ended]:
    """A run of two gloo processes that nobody watches over; ``code`` runs the command."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = []
    for rank in range(2):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2,
                 "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}  # fmt: skip
        running.append(
            subprocess.Popen(
                [sys.executable, "-c", code, *arguments],
                env={**os.environ, **{name: str(value) for name, value in place.items()}},
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
        )  # fmt: skip
    try:
        shown = [process.communicate(timeout=120) for process in running]
    finally:
        for process in running:
            process.kill()
    return [
        Ended(process.returncode, *texts) for process, texts in zip(running, shown, strict=True)
    ]
