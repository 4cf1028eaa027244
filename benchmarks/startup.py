"""Time of the commands from process start to exit, and their peak memory.

    python benchmarks/startup.py [RUNS]

Prints the shortest and the median time of RUNS runs (default 5); needs an idle machine.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

PICTURE = Path(__file__).parents[1] / "src" / "flmm" / "assets" / "pictures" / "demo.png"
COMMANDS = {
    "flmm --help": ["--help"],
    "import of torch and transformers' classes": [],
    "flmm chat": ["chat", str(PICTURE), "What is in the picture?"],
    "flmm segment": ["segment", str(PICTURE), "the dog"],
}


@dataclass(frozen=True)
class CommandCost:
    """The cost of one process: wall time in seconds, peak resident memory in GB."""

    seconds: float
    gigabytes: float


def measure_command(arguments: list[str], folder: str) -> CommandCost:
    """Run flmm once, or without arguments only the imports that every model command needs."""
    program = (
        ["-m", "flmm.cli.main", *arguments]
        if arguments
        else [
            "-c",
            "import torch, transformers.models.llava.modeling_llava, transformers.models.sam",
        ]
    )
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *program], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"flmm {' '.join(arguments)} failed with {process.returncode}")
    return CommandCost(seconds, usage.ru_maxrss * 1024 / 1e9)


def main() -> None:
    num_runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as folder:
        for name, arguments in COMMANDS.items():
            results = [measure_command(arguments, folder) for _ in range(num_runs)]
            seconds = [result.seconds for result in results]
            print(
                f"{name:45} least {min(seconds):5.2f} s  median {statistics.median(seconds):5.2f} s"
                f"  peak {max(result.gigabytes for result in results):4.2f} GB"
            )


if __name__ == "__main__":
    main()
