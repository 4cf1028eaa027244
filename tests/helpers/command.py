"""Runs of the command ``flmm``, with their exit code and output."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from flmm.cli.main import run

COMMAND = (sys.executable, "-c", "from flmm.cli.main import run; run()")


_PROGRESS = re.compile(
    r"^flmm: [\d,]+ (?:of [\d,]+|done)"
    r"(?:, [\d.,]+ (?:a second|failed)|, (?:\d+ days?, )?[\d:]+ left)*(?:: .*)?\n",
    re.MULTILINE,
)


@dataclass(frozen=True)
class CommandResult:
    """``err`` is without lines of progress, of which slow machines have more."""

    code: int
    out: str
    err: str
    progress: tuple[str, ...] = ()

    @classmethod
    def of(cls, code: int, out: str, err: str) -> "CommandResult":
        """Return the result of a command that has written this."""
        return cls(code, out, _PROGRESS.sub("", err), tuple(_PROGRESS.findall(err)))


def is_refused(ended: CommandResult, *parts: str) -> bool:
    """Exit code 2, nothing on standard output, one line with the remedy on standard error."""
    one_line = ended.err.startswith("flmm: ") and ended.err.count("\n") == 1
    return (ended.code, ended.out) == (2, "") and one_line and all(p in ended.err for p in parts)


def list_files() -> list[str]:
    """Return the names of the files and folders in the current folder."""
    return sorted(path.name for path in Path.cwd().iterdir())


def run_in_process(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> CommandResult:
    with pytest.raises(SystemExit) as ended:
        run(arguments)
    output = capsys.readouterr()
    assert ended.value.code is None or isinstance(ended.value.code, int)
    return CommandResult.of(ended.value.code or 0, output.out, output.err)


def run_in_new_process(*arguments: str) -> CommandResult:
    process = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False)
    return CommandResult.of(process.returncode, process.stdout, process.stderr)


def run_in_two_processes(*arguments: str, code: str = COMMAND[-1]) -> list[CommandResult]:
    """Run two gloo processes without a launcher; ``code`` runs the command."""
    with socket.socket() as free_socket:
        free_socket.bind(("127.0.0.1", 0))
        port = free_socket.getsockname()[1]
    processes = []
    for rank in range(2):
        variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2,
                 "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}  # fmt: skip
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", code, *arguments],
                env={**os.environ, **{name: str(value) for name, value in variables.items()}},
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
        )  # fmt: skip
    try:
        outputs = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [
        CommandResult.of(process.returncode, *output)
        for process, output in zip(processes, outputs, strict=True)
    ]
