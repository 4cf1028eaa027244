"""The server process: socket, signals and memory settings."""

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
import uvicorn

from flmm.errors import InputError
from flmm.grounding.freed_memory import keep_freed_memory
from flmm.serve.app import create_app
from flmm.serve.protection.middleware import is_loopback
from flmm.serve.settings import ServerSettings

if TYPE_CHECKING:
    from flmm.grounding.grounder import Grounder

_KEEP_ALIVE_SECONDS = 20
_LISTEN_BACKLOG = 256


def listen(settings: ServerSettings) -> socket.socket:
    """Return the server's listening socket.

    Raises:
        InputError: the address is not available.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    server_socket = socket.socket(family)
    try:
        server_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server_socket.bind((settings.host, settings.port))
        server_socket.listen(_LISTEN_BACKLOG)
    except (OSError, OverflowError) as error:
        server_socket.close()
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(
            f"cannot listen on {settings.host}:{settings.port} ({reason});"
            " choose another --port or --host"
        ) from error
    return server_socket


def create_server(grounder: "Grounder", settings: ServerSettings) -> uvicorn.Server:
    """Return a server that is not started; ``run(sockets=[...])`` starts it.

    It ends when its process is interrupted or terminated, or ``should_exit`` is set, after it has
    finished all admitted requests. Nobody else may use the grounder.
    """
    config = uvicorn.Config(
        create_app(grounder, settings),
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="none",
    )
    return uvicorn.Server(config)


def serve(
    grounder: "Grounder", settings: ServerSettings, on_message: Callable[[str], None]
) -> None:
    """Serve until the process is interrupted or terminated; finish all admitted requests.

    Args:
        grounder: nobody else may use it.
        settings: the server's.
        on_message: called with a line that names the address, and a warning if other machines may
            ask without a key, just before the server starts.

    Raises:
        InputError: the address is not available.
    """
    with _tune_process(), listen(settings) as server_socket:
        host, port = server_socket.getsockname()[:2]
        url_host = f"[{host}]" if ":" in host else host
        server = create_server(grounder, settings)
        # uvicorn raises the signal again at its end: the default handler would kill the process.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, server.handle_exit)
        model = (
            grounder.model if grounder.head is not None else f"{grounder.lmm}, {grounder.model},"
        )
        on_message(f"serving {model} on http://{url_host}:{port}")
        if settings.api_key is None and not is_loopback(host):
            on_message("anyone who reaches this machine may ask; set a key with FLMM_API_KEY")
        server.run(sockets=[server_socket])


@contextmanager
def _tune_process() -> Iterator[None]:
    """Set up threads and memory for two threads that run models side by side."""
    # If both used all cores, they would wait for each other at every step.
    torch.set_num_threads(max(torch.get_num_threads() // 2, 1))
    with keep_freed_memory():
        yield
