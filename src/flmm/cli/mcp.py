"""``flmm mcp``: the model as tools of agents."""

import sys
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Annotated

import typer

from flmm.cli.api_key import APIKeyOption
from flmm.cli.console import print_message
from flmm.cli.options import (
    DeviceOption,
    DtypeOption,
    LMMOption,
    ModelOption,
    SamOption,
    load_grounder,
    require_packages,
)
from flmm.errors import InputError

if TYPE_CHECKING:
    from flmm.grounding.grounder import Grounder

_REQUIRED_PACKAGES = ("mcp", "fastapi", "prometheus_client")


def mcp(
    root: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            show_default=False,
            help="Read pictures below it; may be repeated. Without it only data URLs are taken.",
        ),
    ] = None,
    http: Annotated[
        bool,
        typer.Option("--http", help="Serve over streamable HTTP in place of standard input."),
    ] = False,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Of --http; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Of --http; 0 for any that is free.")
    ] = 8001,
    api_key: APIKeyOption = None,
    model: ModelOption = None,
    lmm: LMMOption = None,
    sam: SamOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
) -> None:
    """Give agents the model as tools, over the Model Context Protocol; docs/agents.md says how."""
    require_packages("mcp", *_REQUIRED_PACKAGES)
    from flmm.mcp.picture_files import AllowedFolders
    from flmm.mcp.server import create_server, serve_http, serve_stdio
    from flmm.mcp.tools import Tools
    from flmm.serve.settings import ServerSettings

    settings = ServerSettings(host=host, port=port, api_key=api_key)
    folders = AllowedFolders.from_paths(root or [], settings.limits.body_bytes)
    if not http and sys.stdin.isatty():
        print_message(
            "this speaks the Model Context Protocol on standard input and output, so an agent"
            " starts it (docs/agents.md); --http serves it at an address"
        )
    loading: Future[Grounder] = Future()
    server = create_server(Tools(loading, folders, settings.limits), settings.queue_capacity)

    def load() -> None:
        try:
            loading.set_result(load_grounder(model, lmm, sam, device, dtype))
        except InputError as error:
            print_message(str(error))
            loading.set_exception(error)
        except BaseException as error:
            loading.set_exception(error)

    # Agents give up on a server that does not answer at once; calls wait for the model.
    loading_thread = Thread(target=load, name="flmm-loading", daemon=True)
    if http:
        # Not before, since a process that ends while PyTorch is imported is aborted.
        serve_http(server, settings, loading_thread.start, print_message)
    else:
        loading_thread.start()
        serve_stdio(server)
