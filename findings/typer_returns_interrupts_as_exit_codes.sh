#!/usr/bin/env bash
# typer 0.29.2: with standalone_mode=False, Ctrl-C in a command is no exception but a return value.
#
# Guess before looking: as in click, which documents that without standalone mode errors and Abort
# reach the caller, Ctrl-C becomes Abort there (click 8.5.1 does so), so `except typer.Abort` around
# the app is where a program says that it was stopped.
# Seen: typer turns Ctrl-C into Exit(130), and without standalone mode returns 130, as it returns what
# a command itself returns: neither Abort nor KeyboardInterrupt reaches the caller. click raises Abort.
# Fails when that changes.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet typer==0.29.2 click==8.5.1
"$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata

import click
import typer

assert importlib.metadata.version("typer") == "0.29.2"
assert importlib.metadata.version("click") == "8.5.1"


def wait() -> None:
    raise KeyboardInterrupt


def outcome(call) -> object:
    try:
        return call()
    except BaseException as error:
        return type(error).__name__


app = typer.Typer()
app.command()(wait)
seen = {
    "typer": outcome(lambda: app([], standalone_mode=False)),
    "click": outcome(lambda: click.command()(wait)([], standalone_mode=False)),
}
for name, result in seen.items():
    print(f"{name}: {result}")
assert seen == {"typer": 130, "click": "Abort"}
PYTHON
