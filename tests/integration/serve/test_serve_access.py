"""API key, origins, pictures from other hosts, and the start of the server."""

import http.server
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import httpx
import pytest
from serving import (
    KEY,
    LIMITED,
    create_client,
    encode_picture,
    error_of,
    ground_body,
    noise,
    run_limited_server,
    run_server,
    tiny_grounder,
)

from flmm.cli.main import run
from flmm.errors import InputError
from flmm.grounding.grounder import Grounder
from flmm.serve.protection.remote_pictures import is_public_address
from flmm.serve.server import listen, serve
from flmm.serve.settings import ServerSettings

PNG = encode_picture(noise())


@pytest.fixture(scope="module")
def grounder() -> Grounder:
    return tiny_grounder()


@pytest.fixture(scope="module")
def client(grounder: Grounder) -> Iterator[httpx.Client]:
    with run_limited_server(grounder) as client:
        yield client


@pytest.mark.parametrize("key", [None, "wrong", f"{KEY}!", "ü"])
def test_api_key_is_required(client: httpx.Client, key: str | None) -> None:
    headers = [] if key is None else [(b"authorization", f"Bearer {key}".encode())]
    with httpx.Client(base_url=client.base_url) as keyless_client:
        for path in ("/v1/models", "/metrics", "/openapi.json", "/nothing"):
            response = keyless_client.get(path, headers=headers)
            assert error_of(response) == (401, "invalid_api_key")
        assert keyless_client.get("/healthz").status_code == 200


def test_foreign_origins_and_hosts_are_refused(client: httpx.Client) -> None:
    own = str(client.base_url).rstrip("/")
    assert client.get("/v1/models", headers={"origin": own}).status_code == 200
    for origin in ("https://evil.example", "null", "http://localhost:1"):
        response = client.get("/v1/models", headers={"origin": origin})
        assert error_of(response) == (403, "origin_not_allowed")
    rebound = client.get("/v1/models", headers={"host": "evil.example"})
    assert error_of(rebound) == (403, "host_not_allowed")
    preflight = client.options(
        "/v1/ground",
        headers={"origin": "https://evil.example", "access-control-request-method": "POST"},
    )
    assert preflight.status_code == 403
    assert "access-control-allow-origin" not in preflight.headers


@contextmanager
def media_host(answer: Callable[[http.server.BaseHTTPRequestHandler], None]) -> Iterator[int]:
    """Run a host with pictures; yield its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def serve_picture(handler: http.server.BaseHTTPRequestHandler) -> None:
    if handler.path == "/moved":
        handler.send_response(302)
        handler.send_header("location", "/cat.png")
        handler.end_headers()
        return
    content = b"\0" * 300_000 if handler.path == "/large" else PNG
    handler.send_response(200)
    handler.send_header("content-type", "text/html" if handler.path == "/page" else "image/png")
    handler.end_headers()
    handler.wfile.write(content)


def test_pictures_are_fetched_from_allowed_hosts_only(
    grounder: Grounder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with media_host(serve_picture) as port:
        settings = replace(LIMITED, media_domains=(f"localhost:{port}", "example.org"))
        with run_server(grounder, settings) as address, create_client(address) as client:

            def ask_about(url: str) -> httpx.Response:
                return client.post("/v1/ground", json=ground_body(image=url))

            here = f"http://localhost:{port}"
            for url in (
                "http://other.example/cat.png", "http://localhost:1/cat.png",
                f"http://127.0.0.1:{port}/cat.png", f"{here}.example.org/cat.png",
            ):  # fmt: skip
                assert error_of(ask_about(url))[0] == 400
            assert error_of(ask_about("http://me@example.org/"))[1] == "invalid_image_url"
            assert error_of(ask_about("ftp://example.org/"))[1] == "invalid_image_url"
            assert error_of(ask_about("http://[::1/"))[1] == "invalid_image_url"
            assert error_of(ask_about(f"{here}/cat.png")) == (400, "media_address_private")
            monkeypatch.setattr(
                "flmm.serve.protection.remote_pictures.is_public_address", lambda _: True
            )
            assert ask_about(f"{here}/cat.png").status_code == 200
            assert error_of(ask_about(f"{here}/moved")) == (400, "media_not_fetched")
            assert error_of(ask_about(f"{here}/large")) == (400, "media_not_fetched")
            assert error_of(ask_about(f"{here}/page")) == (415, "unsupported_media_type")
            assert error_of(ask_about(f"{here}/a b\r\nX: y"))[0] == 400


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("127.0.0.1", False), ("10.1.2.3", False), ("169.254.169.254", False), ("0.0.0.0", False),
        ("224.0.0.1", False), ("100.64.0.1", False), ("::1", False), ("fe80::1%eth0", False),
        ("fd00::1", False), ("::ffff:10.0.0.1", False), ("2002:7f00:1::", False),
        ("64:ff9b::7f00:1", False), ("8.8.8.8", True), ("2606:4700:4700::1111", True),
    ],
)  # fmt: skip
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public_address(address) == public


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--port", "70000"], "--port"),
        (["--queue", "0"], "--queue"),
        (["--api-key", " "], "the API key is empty"),
        (["--model", "/no/head"], "/no/head"),
    ],
)
def test_wrong_options_end_with_one_line(
    arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(["serve", *arguments])
    message = capsys.readouterr().err
    assert ended.value.code == 2
    assert part in message
    assert message.count("\n") == 1


def test_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("flmm.cli.options.find_spec", lambda name: None if name == "uvicorn" else 1)
    with pytest.raises(SystemExit):
        run(["serve"])
    message = capsys.readouterr().err
    assert message == "flmm: this needs uvicorn, not installed here; pip install 'flmm[serve]'\n"


@pytest.mark.parametrize("origin", ["*", "http://:80", "http://a:b", "http://[::1", "http://u@a"])
def test_origins_that_no_page_has_are_refused(origin: str) -> None:
    with pytest.raises(InputError, match="give scheme, host and port"):
        ServerSettings(allowed_origins=(origin,))


def test_taken_port_is_reported() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"cannot listen on 127.0.0.1:{port}"):
            listen(ServerSettings(port=port))


def test_open_server_without_a_key_warns(
    grounder: Grounder, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A server that never runs would leave its model's thread behind.
    server = SimpleNamespace(run=lambda **_: None, handle_exit=None)
    monkeypatch.setattr("flmm.serve.server.create_server", lambda *_: server)
    monkeypatch.setattr("signal.signal", lambda *_: None)

    def start(settings: ServerSettings) -> list[str]:
        messages: list[str] = []
        serve(grounder, settings, messages.append)
        return [message for message in messages if "FLMM_API_KEY" in message]

    assert len(start(ServerSettings(host="0.0.0.0", port=0))) == 1
    assert not start(ServerSettings(host="0.0.0.0", port=0, api_key=KEY))
    assert not start(ServerSettings(port=0))
