"""The tools over the Model Context Protocol: on standard input and output, or over HTTP."""

import logging
import signal
from collections.abc import Callable

import anyio
import anyio.to_thread
import uvicorn
from mcp.server import Server, ServerRequestContext
from mcp.server.stdio import stdio_server
from mcp.server.transport_security import TransportSecuritySettings
from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    ImageContent,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
    ToolAnnotations,
)

import flmm
from flmm.errors import InputError
from flmm.mcp.tools import Tools
from flmm.serve.errors import APIError
from flmm.serve.protection.middleware import ProtectionMiddleware, is_loopback
from flmm.serve.settings import ServerSettings

_INSTRUCTIONS = (
    "Answers questions about pictures and shows where in them each named thing is. Give a picture"
    " as a path or data URL."
)
_SECONDS_FOR_OPEN_STREAMS = 5
"""After an interrupt; agents keep a stream open for messages that never come."""
_log = logging.getLogger("flmm.mcp")


def create_server(tools: Tools, queue_capacity: int) -> Server[dict[str, object]]:
    """Return a server of the tools; calls are done one after another.

    Args:
        tools: called in a thread.
        queue_capacity: of calls that run or wait; one more is refused.
    """
    one_at_a_time = anyio.CapacityLimiter(1)

    async def list_tools(
        _context: ServerRequestContext[dict[str, object]], _params: PaginatedRequestParams | None
    ) -> ListToolsResult:
        return ListToolsResult(
            tools=[
                Tool(
                    name=tool.name,
                    description=tool.description,
                    input_schema=tool.input_schema,
                    output_schema=tool.output_schema,
                    annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False),
                )
                for tool in tools.describe()
            ]
        )

    async def call_tool(
        _context: ServerRequestContext[dict[str, object]], params: CallToolRequestParams
    ) -> CallToolResult:
        if one_at_a_time.statistics().tasks_waiting >= queue_capacity - 1 > 0:
            return _build_error(f"{queue_capacity} calls run or wait; try again later")
        arguments = params.arguments or {}
        try:
            result = await anyio.to_thread.run_sync(
                tools.call, params.name, arguments, limiter=one_at_a_time
            )
        except (InputError, APIError) as error:
            return _build_error(str(error))
        except Exception:
            _log.exception("the tool %r failed", params.name)
            return _build_error("flmm failed; its log says why")
        # Written with their types, since what is not set is not sent.
        return CallToolResult(
            content=[
                TextContent(type="text", text=result.text),
                ImageContent(type="image", data=result.jpeg, mime_type="image/jpeg"),
            ],
            structured_content=dict(result.content),
            is_error=False,
        )

    return Server(
        "flmm",
        version=flmm.__version__,
        instructions=_INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


def _build_error(message: str) -> CallToolResult:
    text = TextContent(type="text", text=" ".join(message.split()))
    return CallToolResult(content=[text], is_error=True)


def serve_stdio(server: Server[dict[str, object]]) -> None:
    """Serve one client on standard input and output until it closes them.

    Meanwhile, what else is printed goes to standard error.
    """

    async def run() -> None:
        async with stdio_server() as (read_stream, write_stream):
            await server.run(read_stream, write_stream, server.create_initialization_options())

    anyio.run(run)


def serve_http(
    server: Server[dict[str, object]],
    settings: ServerSettings,
    on_listening: Callable[[], None],
    on_message: Callable[[str], None],
) -> None:
    """Serve over streamable HTTP, at /mcp, until the process is interrupted or terminated.

    Args:
        server: of the tools.
        settings: host, port, API key and the limit of bodies are used.
        on_listening: called as soon as the address is the server's.
        on_message: called with a line that names the address just before the server starts.

    Raises:
        InputError: the address is not available.
    """
    from flmm.serve.server import listen  # takes seconds

    app = server.streamable_http_app(
        max_request_body_size=settings.limits.body_bytes,
        # ProtectionMiddleware checks hosts and origins.
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
    )
    config = uvicorn.Config(
        ProtectionMiddleware(
            app, settings, lambda _path, _status: None, "it is for programs, not for web pages"
        ),
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=_SECONDS_FOR_OPEN_STREAMS,
    )
    with listen(settings) as server_socket:
        on_listening()
        host, port = server_socket.getsockname()[:2]
        url_host = f"[{host}]" if ":" in host else host
        on_message(f"tools for agents at http://{url_host}:{port}/mcp")
        if settings.api_key is None and not is_loopback(host):
            on_message("anyone who reaches this machine may ask; set a key with FLMM_API_KEY")
        http_server = uvicorn.Server(config)
        # uvicorn raises the signal again at its end: the default handler would kill the process.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, http_server.handle_exit)
        http_server.run(sockets=[server_socket])
