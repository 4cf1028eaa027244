#!/usr/bin/env bash
# typer 0.29.2: a command's typer.Context is no click.Context, even where click is installed.
#
# Guess before looking: Typer is built on click and depends on it, so typer.Context is a subclass of
# click.Context, click.get_current_context() finds it, and where a parameter comes from is one of
# click.core.ParameterSource.
# Seen: Typer has a copy of click inside (typer._click) and neither installs nor uses click. The
# three are False, None and an enumeration of the copy: `source is ParameterSource.COMMANDLINE` is
# never true, without an error. Comparing its name works with both.
# Fails when that changes.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet typer==0.29.2
"$folder/venv/bin/python" -c "
from importlib.util import find_spec
assert find_spec('click') is None
"
"$folder/venv/bin/pip" install --quiet click==8.3.0
"$folder/venv/bin/python" - <<'PYTHON'
import click
import typer
from click.core import ParameterSource

app = typer.Typer()


@app.command()
def command(context: typer.Context, number: int = 1) -> None:
    source = context.get_parameter_source("number")
    found = click.get_current_context(silent=True)
    print(f"number is {number}, from {source}; click.get_current_context: {found}")
    assert not isinstance(context, click.Context)
    assert found is None
    assert source is not ParameterSource.COMMANDLINE
    assert source.name == "COMMANDLINE"


app(["--number", "3"])
PYTHON
