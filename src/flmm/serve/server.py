"""Runs the server until it is told to end."""

import ctypes
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import TYPE_CHECKING

import torch
import uvicorn

from flmm.errors import InputError
from flmm.serve.app import create_app
from flmm.serve.settings import ServerSettings

if TYPE_CHECKING:
    from flmm.grounding.grounder import Grounder

_KEEP_ALIVE_SECONDS = 20
_LISTEN_BACKLOG = 256
# Of glibc's mallopt: bytes that are kept, bytes above which a block is mapped apart, heaps.
_MALLOC_OPTIONS = {-1: 2**30, -3: 2**25, -8: 1}
_TRIM_INTERVAL_SECONDS = 10


def listen(settings: ServerSettings) -> socket.socket:
    """The server's socket.

    Raises:
        InputError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    opened = socket.socket(family)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((settings.host, settings.port))
        opened.listen(_LISTEN_BACKLOG)
    except (OSError, OverflowError) as error:
        opened.close()
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(
            f"cannot listen on {settings.host}:{settings.port} ({reason});"
            " choose another --port or --host"
        ) from error
    return opened


def create_server(grounder: "Grounder", settings: ServerSettings) -> uvicorn.Server:
    """A server that is not started; ``run(sockets=[...])`` starts it.

    It ends when its process is interrupted or terminated, or ``should_exit`` is set, and finishes
    what it has begun. The grounder belongs to it from now on.
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
    """Serves until the process is interrupted or terminated, and finishes what it has begun.

    Args:
        grounder: belongs to the server from now on.
        settings: the server's.
        tell: is told the address when the server takes requests.

    Raises:
        InputError: the address cannot be had.
    """
    with _tune_process(), listen(settings) as opened:
        host, port = opened.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        server = create_server(grounder, settings)
        # uvicorn hands a signal on when it is done, which would end the process as if by force.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, server.handle_exit)
        on_message(f"serving {grounder.model} on http://{shown}:{port}")
        server.run(sockets=[opened])


@contextmanager
def _tune_process() -> Iterator[None]:
    """Sets the process up for two threads that run models side by side."""
    # With all cores each, they would wait for each other at every step.
    torch.set_num_threads(max(torch.get_num_threads() // 2, 1))
    try:
        library = ctypes.CDLL(None)
        set_option, trim = library.mallopt, library.malloc_trim
    except (AttributeError, OSError, TypeError):
        yield
        return
    # Each batch asks for what the last one has freed: glibc would give it back to the system and
    # fetch it anew, page by page.
    for option, value in _MALLOC_OPTIONS.items():
        set_option(option, value)
    ended = Event()

    def trim_memory() -> None:
        # What lies free between others is else kept for good, and grows with every odd batch.
        while not ended.wait(_TRIM_INTERVAL_SECONDS):
            trim(0)

    keeper = Thread(target=trim_memory, name="memory", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        ended.set()
        keeper.join()
