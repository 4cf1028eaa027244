"""The command ``flmm``: its sub-commands and exit codes.

Exit code 0: done; 2: the user's mistake, explained in one line; 1: a failure of flmm, with a
traceback; 130: interrupted with Ctrl-C.
"""

import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated, NoReturn

import typer

import flmm
from flmm.cli.attend import attend
from flmm.cli.batch import batch
from flmm.cli.bench import app as bench
from flmm.cli.cache import cache
from flmm.cli.calibrate import calibrate
from flmm.cli.chat import chat
from flmm.cli.console import is_terminal, print_message
from flmm.cli.convert import convert
from flmm.cli.evaluate import evaluate
from flmm.cli.export import export
from flmm.cli.ground import ground
from flmm.cli.mcp import mcp
from flmm.cli.models import models
from flmm.cli.report import report
from flmm.cli.results import results
from flmm.cli.segment import segment
from flmm.cli.serve import serve
from flmm.cli.think import think
from flmm.cli.train import train
from flmm.errors import InputError

_RESUMABLE_COMMANDS = ("batch", "cache", "evaluate", "report", "train")
_INTERRUPTED = 130
"""As shells have it: 128 and the number of SIGINT."""

app = typer.Typer(
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(chat)
app.command()(ground)
app.command()(segment)
app.command()(attend)
app.command()(think)
app.command()(batch)
app.command()(results)
app.command()(export)
app.command()(calibrate)
app.command()(cache)
app.command()(train)
app.command()(evaluate)
app.command()(report)
app.command()(serve)
app.command()(mcp)
app.command()(models)
app.command()(convert)
app.add_typer(bench, name="bench")
if find_spec("flmm.cli.stickers") is not None:
    app.add_typer(import_module("flmm.cli.stickers").app, name="stickers")


def _print_version(requested: bool) -> None:
    if requested:
        print(f"flmm {flmm.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def about(
    context: typer.Context,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Point at things in a picture with a multimodal model that is left as it is.

    For example: flmm chat photo.jpg "What is on the table?"
    """
    if context.invoked_subcommand is None:
        print(context.get_help())


def run(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and end the process.

    Args:
        arguments: without the command's own name; None for the process's.
    """
    _silence_libraries()
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        code = app(words, prog_name="flmm", standalone_mode=False)
    except InputError as error:
        print_message(str(error))
        code = 2
    except typer.TyperException as error:
        print_message(f"{error.format_message()} (--help shows how)")
        code = 2
    except typer.Abort:
        code = 1
    # Typer catches Ctrl-C and returns this code.
    if code == _INTERRUPTED:
        print_message(_describe_interruption(words))
    sys.exit(code)


def _describe_interruption(words: Sequence[str]) -> str:
    if not words or words[0] not in _RESUMABLE_COMMANDS:
        return "stopped"
    # Started by a launcher, the process does not know the whole command.
    command = "the same command" if "RANK" in os.environ else shlex.join(["flmm", *words])
    return f"stopped; what is done is kept, and this goes on: {command}"


def _silence_libraries() -> None:
    """Keep libraries' warnings off standard error; variables that the user has set stay."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not is_terminal():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


if __name__ == "__main__":
    run()
