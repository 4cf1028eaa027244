"""Completion of commands and options in shells."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command import COMMAND

_CODE = """
import atexit, sys
heavy = ("torch", "transformers", "numpy", "rich")
atexit.register(lambda: print([name for name in heavy if name in sys.modules], file=sys.stderr))
from flmm.cli.main import run
run()
"""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("flmm ch", ["chat"]),
        ("flmm chat --temp", ["--temperature"]),
        ("flmm export results --to la", ["label-studio", "labelme"]),
        ("flmm bench g", ["ground"]),
        ("flmm chat photo.jpg --model embedded:nothing --se", ["--seed"]),
    ],
)
def test_words_are_completed_without_heavy_imports(words: str, expected: list[str]) -> None:
    variables = {
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
        "_FLMM_COMPLETE": "complete_bash",
    }
    done = subprocess.run(
        [sys.executable, "-c", _CODE],
        env={**os.environ, **variables}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.split() == expected
    assert done.stderr == "[]\n"


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_with_the_installed_script(tmp_path: Path) -> None:
    command = tmp_path / "flmm"
    command.write_text(f'#!/bin/sh\nexec {COMMAND[0]} {COMMAND[1]} "{COMMAND[2]}" "$@"\n')
    command.chmod(0o755)
    script = """
flmm --install-completion > /dev/null
source ~/.bashrc
COMP_WORDS=(flmm chat photo.jpg --temp) COMP_CWORD=3
$(complete -p flmm | sed 's/.*-F \\([^ ]*\\) .*/\\1/') flmm
echo "${COMPREPLY[@]}"
"""
    done = subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "HOME": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "--temperature\n", done.stderr
