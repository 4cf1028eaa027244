"""README's snippets work as they stand there, and docs name commands and options that exist."""

import re
import shlex
from pathlib import Path

import pytest
from command import run_in_process
from typer.main import get_command

from flmm.cli.main import app

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
SLOW = ("bench",)
_COMMAND = re.compile(r"^    (flmm .+)$", re.MULTILINE)
_PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def section(title: str) -> str:
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def commands(text: str) -> list[list[str]]:
    """The words of each command of flmm, with shell variables replaced and comments left out."""
    for name, value in re.findall(r"^    (\w+)=(\S+)$", text, re.MULTILINE):
        text = text.replace(f"${name}", value)
    return [shlex.split(line, comments=True)[1:] for line in _COMMAND.findall(text)]


RUNNABLE = [
    command for command in commands(section("Try it") + section("Use it")) if command[0] not in SLOW
]


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the repository's pictures, into which the snippets may write."""
    (tmp_path / "src").symlink_to(ROOT / "src")
    monkeypatch.chdir(tmp_path)


def test_there_are_commands() -> None:
    assert {command[0] for command in RUNNABLE} == {
        "chat", "ground", "segment", "attend", "think", "batch", "models"
    }  # fmt: skip


@pytest.mark.parametrize("command", RUNNABLE, ids=lambda command: command[0])
def test_command_works(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    ended = run_in_process(command, capsys)
    # The embedded model would say here that it does not know the picture.
    assert (ended.code, ended.err) == (0, "")
    assert "no phrase of this answer" not in ended.out


def test_python_snippet_works(capsys: pytest.CaptureFixture[str]) -> None:
    (snippet,) = _PYTHON.findall(section("Use it"))
    exec(compile(snippet, "README.md", "exec"), {})
    assert "There is a dog" in capsys.readouterr().out
    assert sorted(path.name for path in Path().glob("*.png")) == ["attention.png", "overlay.png"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_commands_and_options_exist(document: Path) -> None:
    for command in commands(document.read_text(encoding="utf-8")):
        program, arguments = get_command(app), command
        while arguments and arguments[0] in getattr(program, "commands", {}):
            program, arguments = program.commands[arguments[0]], arguments[1:]  # type: ignore[attr-defined]
        assert not hasattr(program, "commands"), f"{document.name}: flmm {' '.join(command)}"
        # Fails on an unknown option, a missing argument or a value of another type.
        program.make_context("flmm", list(arguments))
