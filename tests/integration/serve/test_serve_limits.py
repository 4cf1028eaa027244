"""What the server refuses: each with its own status and code, and the server still works."""

import contextlib
import io
import json
import random
import socket
import struct
import zipfile
import zlib
from collections.abc import Iterator

import httpx
import pytest
from PIL import Image
from serving import (
    KEY,
    data_url,
    encode_picture,
    error_of,
    ground_body,
    noise,
    run_limited_server,
    tiny_grounder,
)

PNG = encode_picture(noise())
URL = data_url(PNG)


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with run_limited_server(tiny_grounder()) as client:
        yield client


def chat(*urls: str, text: str = "what?", **changes: object) -> dict[str, object]:
    pictures = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    content = [*pictures, {"type": "text", "text": text}]
    messages = [{"role": "user", "content": content}]
    return {"model": "tiny", "messages": messages, "max_tokens": 2, **changes}


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG whose header promises more pixels than its data has."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(data))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def archive() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as opened:
        opened.writestr("a.txt", "hidden")
    return content.getvalue()


def nested(depth: int) -> object:
    return [nested(depth - 1)] if depth else 1


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        (b'{"image": "\xff"}', 400, "invalid_utf8"),
        (b'{"temperature": NaN}', 400, "invalid_json"),
        (b'{"temperature": -Infinity}', 400, "invalid_json"),
        (b'{"question": "\\ud800"}', 400, "invalid_json"),
        (b"[" * 100_000, 400, "too_many_values"),
        (b"[" * 1000, 400, "json_too_deep"),
        (json.dumps({"image": nested(20)}).encode(), 400, "json_too_deep"),
        (b"[" + b"1," * 3000 + b"1]", 400, "too_many_values"),
        (b'{"max_tokens": ' + b"9" * 5000 + b"}", 400, None),
        (b'{"temperature": 1e999}', 400, None),
        (b"null", 400, "invalid_value"),
        (b"", 400, "invalid_json"),
        (b" " * 200_001, 413, "body_too_large"),
    ],
)
def test_broken_bodies(client: httpx.Client, body: bytes, status: int, code: str | None) -> None:
    response = client.post("/v1/ground", content=body, headers={"content-type": "application/json"})
    assert error_of(response)[0] == status
    assert code is None or error_of(response)[1] == code


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"colour": 1}, "unknown_field", "colour"),
        ({"max_tokens": 0}, "invalid_value", "max_tokens"),
        ({"max_tokens": 2.5}, "invalid_value", "max_tokens"),
        ({"max_tokens": "2"}, "invalid_value", "max_tokens"),
        ({"max_tokens": True}, "invalid_value", "max_tokens"),
        ({"temperature": -0.1}, "invalid_value", "temperature"),
        ({"temperature": 1e300}, "invalid_value", "temperature"),
        ({"seed": 2**63}, "invalid_value", "seed"),
        ({"stop": ["a"] * 5}, "invalid_value", "stop"),
        ({"stop": ""}, "invalid_value", "stop"),
        ({"question": " "}, "invalid_value", None),
        ({"question": "<image> what?"}, "invalid_value", None),
        ({"question": "cat " * 1600}, "context_length_exceeded", "messages"),
        ({"question": "c" * 150_000}, "context_length_exceeded", "messages"),
        ({"phrases": []}, "invalid_value", "phrases"),
        ({"phrases": ["cat"] * 4}, "too_many_phrases", "phrases"),
        ({"phrases": [" "]}, "invalid_value", None),
        ({"max_phrases": 4}, "too_many_phrases", "max_phrases"),
        ({"mask_format": "svg"}, "invalid_value", "mask_format"),
        ({"image": "data:image/png;base64,@@"}, "invalid_base64", "image"),
        ({"image": "data:image/png,abc"}, "invalid_image_url", "image"),
        ({"image": "data:image/png;base64,"}, "invalid_image", "image"),
        ({"image": "https://example.org/cat.png"}, "media_not_fetched", "image"),
        ({"image": "file:///etc/passwd"}, "media_not_fetched", "image"),
        ({"image": 5}, "invalid_value", "image"),
    ],
)
def test_wrong_field_values(
    client: httpx.Client, changes: dict[str, object], code: str, param: str | None
) -> None:
    response = client.post("/v1/ground", json=ground_body(**changes))
    assert error_of(response) == (400, code)
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("content", "kind", "status", "code"),
    [
        (png(400, 251), "image/png", 400, "image_too_large"),
        (png(633, 2), "image/png", 400, "image_too_large"),
        (png(65_000, 65_000), "image/png", 400, "invalid_image"),
        (png(300, 300, b"\0" * 99), "image/png", 400, "invalid_image"),
        (PNG[:500], "image/png", 400, "invalid_image"),
        (b"<svg/>", "image/png", 400, "invalid_image"),
        (b"<svg/>", "image/svg+xml", 400, "invalid_image"),
        (encode_picture(noise(), "BMP"), "image/png", 400, "invalid_image"),
        (PNG, "application/pdf", 415, "unsupported_media_type"),
        (PNG, "text/html", 415, "unsupported_media_type"),
        (PNG + archive(), "image/png", 400, "not_only_a_picture"),
        (PNG + b"<script>alert(1)</script>", "image/png", 400, "not_only_a_picture"),
        (encode_picture(noise(), "JPEG") + archive(), "image/jpeg", 400, "not_only_a_picture"),
        (encode_picture(noise(), "GIF") + b"%PDF-1.4", "image/gif", 400, "not_only_a_picture"),
        (encode_picture(noise(), "WEBP") + archive(), "image/webp", 400, "not_only_a_picture"),
    ],
)
def test_refused_pictures(
    client: httpx.Client, content: bytes, kind: str, status: int, code: str
) -> None:
    response = client.post("/v1/ground", json=ground_body(image=data_url(content, kind)))
    assert error_of(response) == (status, code)
    fields = {"question": "what?"}
    response = client.post("/v1/ground", data=fields, files={"image": ("a", content, kind)})
    assert error_of(response) == (status, code)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_accepted_picture_formats(client: httpx.Client, kind: str) -> None:
    url = data_url(encode_picture(noise(), kind), f"image/{kind.lower()}")
    assert client.post("/v1/ground", json=ground_body(image=url)).status_code == 200
    animation = io.BytesIO()
    noise().save(animation, "GIF", save_all=True, append_images=[noise(seed=1)], comment=b";")
    url = data_url(animation.getvalue(), "image/gif")
    assert client.post("/v1/ground", json=ground_body(image=url)).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        (chat(URL, URL, URL), 400, "too_many_images", "messages"),
        (chat(URL, model="gpt"), 404, "model_not_found", "model"),
        (chat(URL, n=17), 400, "invalid_value", "n"),
        (chat(URL, colour="red"), 400, "unknown_field", "colour"),
        (chat(URL, top_p=1.5), 400, "invalid_value", "top_p"),
        (chat(URL, max_completion_tokens=3), 400, "invalid_value", None),
        (chat(URL, messages=[]), 400, "invalid_value", "messages"),
        (
            chat(messages=[{"role": "assistant", "content": "a cat"}]),
            400, "invalid_value", "messages",
        ),
        (chat(messages=[{"role": "robot", "content": "hi"}]), 400, "invalid_value", "messages[0]"),
        (chat(text=" "), 400, "invalid_value", "messages[0].content"),
        (chat(URL, grounding={"colour": 1}), 400, "unknown_field", "grounding.colour"),
        (
            chat(messages=[{"role": "user", "content": [{"type": "video"}]}]),
            400, "invalid_value", "messages[0].content[0]",
        ),
        (
            chat(data_url(PNG, "text/html")),
            415, "unsupported_media_type", "messages[0].content[0].image_url.url",
        ),
    ],
)  # fmt: skip
def test_refused_chats(
    client: httpx.Client, body: dict[str, object], status: int, code: str, param: str | None
) -> None:
    response = client.post("/v1/chat/completions", json=body)
    assert error_of(response) == (status, code), response.text
    assert response.json()["error"]["param"] == param
    # A stream is refused before it begins.
    response = client.post("/v1/chat/completions", json={**body, "stream": True})
    assert error_of(response) == (status, code)


def test_segment_and_attend_have_limits_too(client: httpx.Client) -> None:
    body = {"image": URL, "phrases": ["cat"] * 4}
    assert error_of(client.post("/v1/segment", json=body)) == (400, "too_many_phrases")
    attend_body = {"image": URL, "question": "what?", "answer": "a cat", "layer": 50}
    assert error_of(client.post("/v1/attend", json=attend_body)) == (400, "invalid_value")
    attend_body = {"image": URL, "question": "what?", "answer": "a cat", "words": ["dog"]}
    assert error_of(client.post("/v1/attend", json=attend_body)) == (400, "invalid_value")


def test_wrong_media_types_methods_and_paths(client: httpx.Client) -> None:
    text = client.post("/v1/ground", content="hi", headers={"content-type": "text/plain"})
    assert error_of(text) == (415, "unsupported_media_type")
    assert error_of(client.get("/v1/ground")) == (405, "method_not_allowed")
    assert error_of(client.get("/v2/ground")) == (404, "not_found")
    form = {"content-type": "multipart/form-data"}
    assert error_of(client.post("/v1/ground", content=b"x", headers=form))[0] == 400
    files = {"image": ("a.png", PNG, "image/png"), "other": ("b.png", PNG, "image/png")}
    assert error_of(client.post("/v1/ground", data={"question": "?"}, files=files))[0] == 400
    without = client.post("/v1/ground", data={"question": "?"}, files={"picture": PNG})
    assert error_of(without)[0] == 400


def test_body_size_is_limited_while_it_arrives(client: httpx.Client) -> None:
    sent = 0

    def body(length: int) -> Iterator[bytes]:
        nonlocal sent
        sent = 0
        while sent < length:
            sent += 10_000
            yield b" " * 10_000

    headers = {"content-type": "application/json"}
    response = client.post("/v1/ground", content=body(300_000), headers=headers)
    assert error_of(response) == (413, "body_too_large")
    # A body without end is cut off; the client need not get the response.
    with contextlib.suppress(httpx.TransportError):
        client.post("/v1/ground", content=body(100_000_000), headers=headers)
    assert sent < 50_000_000


def test_slow_body_is_refused(client: httpx.Client) -> None:
    host, port = str(client.base_url.host), client.base_url.port
    assert port is not None
    with socket.create_connection((host, port), timeout=10) as connection:
        head = (
            f"POST /v1/ground HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {KEY}\r\n"
            "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
        connection.sendall(head.encode())
        assert b" 408 " in connection.recv(100)


def test_disconnect_within_a_body_frees_the_slot(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    url = client.base_url
    head = (
        f"POST /v1/segment HTTP/1.1\r\nHost: {url.netloc.decode()}\r\n"
        f"Authorization: Bearer {KEY}\r\n"
        "Content-Type: application/json\r\nContent-Length: 100\r\n\r\nhalf"
    )
    with socket.create_connection((url.host, url.port)) as connection:
        connection.sendall(head.encode())
        while client.get("/healthz").json()["served"] == 0:
            pass
    while client.get("/healthz").json()["served"]:
        pass
    assert 'path="/v1/segment",status="499"' in client.get("/metrics").text
    assert not [record for record in caplog.records if record.exc_info]


def test_damaged_pictures_are_client_errors(client: httpx.Client) -> None:
    """Whatever the damage, the status is 200 or 400."""
    generator = random.Random(0)
    for kind in ("PNG", "JPEG", "WEBP", "GIF"):
        intact = encode_picture(noise(24, 16), kind)
        for _ in range(6):
            content = bytearray(intact)
            for _ in range(generator.randint(1, 8)):
                content[generator.randrange(len(content))] = generator.randrange(256)
            url = data_url(bytes(content), f"image/{kind.lower()}")
            body = {"image": url, "phrases": ["a"], "refine": False}
            assert client.post("/v1/segment", json=body).status_code in (200, 400)


def test_transparent_and_grey_pictures(client: httpx.Client) -> None:
    for mode in ("L", "LA", "P", "RGBA", "1", "I;16"):
        picture = Image.new(mode, (20, 20))
        url = data_url(encode_picture(picture))
        body = {"image": url, "phrases": ["a"], "refine": False}
        assert client.post("/v1/segment", json=body).status_code == 200
