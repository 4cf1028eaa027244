"""Ctrl-C: one line, which says what goes on, and the exit code that shells have for it."""

import shutil
import subprocess
from pathlib import Path

import pytest
from command import COMMAND

pytest_plugins = ("command_fixtures",)
pytestmark = pytest.mark.usefixtures("in_empty_folder")
_INTERRUPT_WHERE_MODELS_ARE_LOADED = """
import signal
import flmm.cli.batch, flmm.cli.chat
signal.signal(signal.SIGINT, signal.default_int_handler)
def interrupt(*_):
    signal.raise_signal(signal.SIGINT)
flmm.cli.batch.load_grounder = flmm.cli.chat.load_grounder = interrupt
"""


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["batch", "my pictures", "What is it?", "--out", "results.jsonl"],
            "stopped; what is done is kept, and this goes on:"
            " flmm batch 'my pictures' 'What is it?' --out results.jsonl",
        ),
        (["chat", "my pictures/a.png", "What is it?"], "stopped"),
    ],
)
def test_what_goes_on_is_said(arguments: list[str], line: str, scene: str) -> None:
    Path("my pictures").mkdir()
    shutil.copy(scene, Path("my pictures", "a.png"))
    program = _INTERRUPT_WHERE_MODELS_ARE_LOADED + COMMAND[-1]
    done = subprocess.run(
        [*COMMAND[:-1], program, *arguments], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", f"flmm: {line}\n")
