"""Runs the command `flmm` and keeps how it ended."""

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
