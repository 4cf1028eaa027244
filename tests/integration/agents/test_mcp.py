"""``flmm mcp`` with the client of the official SDK: over standard input and output, and HTTP."""

import asyncio
import base64
import io
import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from command import COMMAND, is_refused, run_in_process
from command_fixtures import Models
from PIL import Image
from serving import data_url, encode_picture, noise

from flmm.grounding.grounder import Grounder

if TYPE_CHECKING:
    from mcp import Client
    from mcp_types import CallToolResult

pytest.importorskip("mcp", reason="the extra mcp is not installed")

pytest_plugins = ("command_fixtures",)
QUESTION = "What is in the picture?"
KEY = "sesame"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    noise().save(folder / "a.png")
    noise(40, 60, seed=1).save(folder / "b.png")
    (folder / "text.png").write_text("no picture")
    return folder


@asynccontextmanager
async def start_stdio(models: Models, *arguments: str) -> "AsyncIterator[Client]":
    from mcp import Client
    from mcp.client.stdio import StdioServerParameters

    command, *rest = [*COMMAND, "mcp", "--model", str(models.head), *arguments]
    async with Client(StdioServerParameters(command=command, args=rest, env={**os.environ})) as it:
        yield it


def text_of(result: "CallToolResult") -> str:
    assert result.content[0].type == "text"
    text: str = result.content[0].text
    return text


def image_of(result: "CallToolResult") -> Image.Image:
    assert result.content[1].type == "image"
    assert result.content[1].mime_type == "image/jpeg"
    return Image.open(io.BytesIO(base64.b64decode(result.content[1].data)))


def test_all_tools_over_standard_input_and_output(models: Models, pictures: Path) -> None:
    grounder = Grounder.from_pretrained(models.head)

    async def use() -> None:
        async with start_stdio(models, "--root", str(pictures)) as client:
            listed = (await client.list_tools()).tools
            assert [tool.name for tool in listed] == ["chat", "segment", "ground", "look_closer"]
            assert all(tool.description and tool.output_schema for tool in listed)

            said = {"image": "a.png", "question": QUESTION, "max_tokens": 20}
            result = await client.call_tool("chat", said)
            expected = grounder.chat(pictures / "a.png", QUESTION, max_new_tokens=20)
            content = result.structured_content
            assert content["text"] == expected.text
            assert content["phrases"] == expected.to_dict()["phrases"]
            assert text_of(result).startswith(expected.text + "\n1. ")
            assert image_of(result).size == expected.overlay.size

            result = await client.call_tool(
                "chat",
                {
                    "image": ["a.png", str(pictures / "b.png")],
                    "question": QUESTION,
                    "history": [
                        {"role": "user", "content": "Is it a dog?"},
                        {"role": "assistant", "content": "No."},
                    ],
                    "system": "Be brief.", "temperature": 2.0, "seed": 3, "max_tokens": 20,
                },
            )  # fmt: skip
            expected = grounder.chat(
                [pictures / "a.png", pictures / "b.png"], QUESTION, max_new_tokens=20,
                history=[{"role": "user", "content": "Is it a dog?"},
                         {"role": "assistant", "content": "No."}],
                system="Be brief.", temperature=2.0, seed=3,
            )  # fmt: skip
            assert result.structured_content["phrases"] == expected.to_dict()["phrases"]
            assert "of picture" in text_of(result)

            phrases = ["the cat", "grass"]
            url = data_url(encode_picture(noise()))
            result = await client.call_tool("segment", {"image": url, "phrases": phrases})
            expected = grounder.segment(noise(), phrases)
            assert result.structured_content["phrases"] == expected.to_dict()["phrases"]

            caption = {"image": "a.png", "text": "A cat on grass.", "phrases": ["grass"]}
            result = await client.call_tool("ground", caption)
            assert [each["text"] for each in result.structured_content["phrases"]] == ["grass"]

            result = await client.call_tool("look_closer", said)
            thought = grounder.think(pictures / "a.png", QUESTION, max_new_tokens=20)
            assert result.structured_content["box"] == list(thought.box)
            assert text_of(result).startswith(thought.answer.text)
            assert image_of(result).size == thought.figure.size
            await check_mistakes(client)

    asyncio.run(use())


async def check_mistakes(client: "Client") -> None:
    mistakes: list[tuple[str, dict[str, object], str]] = [
        ("chat", {"image": "../a.png", "question": "?"}, "has '..'"),
        ("chat", {"image": "/etc/passwd", "question": "?"}, "is not below"),
        ("chat", {"image": "text.png", "question": "?"}, "is not a picture"),
        ("chat", {"image": "data:text/html;base64,AAAA", "question": "?"}, "type is 'text/html'"),
        ("chat", {"image": "a.png"}, "question: Field required"),
        ("chat", {"image": "a.png", "question": 3}, "question: Input should be a valid string"),
        ("chat", {"image": "a.png", "question": " "}, "the question is empty"),
        ("chat", {"image": "a.png", "question": "?", "colour": 1}, "no argument 'colour'"),
        ("chat", {"image": ["a.png"] * 9, "question": "?"}, "9 pictures; give 8 at most"),
        ("chat", {"image": "a.png", "question": "?" * 3_000_000}, "at most"),
        ("segment", {"image": "a.png", "phrases": []}, "phrases: List should have at least 1"),
        ("segment", {"image": "a.png", "phrases": ["a"] * 65}, "64 at most are grounded"),
        ("ground", {"image": "a.png", "text": "A cat.", "phrases": ["dog"]}, "'dog' is not in"),
        ("paint", {}, "there is no tool 'paint'; call one of chat, segment"),
    ]
    for name, arguments, part in mistakes:
        result = await client.call_tool(name, arguments)
        assert result.is_error, arguments
        assert part in text_of(result)
        assert "\n" not in text_of(result)
    wide = encode_picture(Image.new("1", (30_000_000, 1)))
    result = await client.call_tool("chat", {"image": data_url(wide), "question": "?"})
    assert result.is_error
    assert "send one of at most 25000000" in text_of(result)


def test_without_root_no_path_is_read(models: Models, pictures: Path) -> None:
    async def use() -> str:
        async with start_stdio(models) as client:
            given = {"image": str(pictures / "a.png"), "phrases": ["a cat"]}
            return text_of(await client.call_tool("segment", given))

    assert "start flmm mcp with --root FOLDER" in asyncio.run(use())


def test_a_model_that_cannot_be_loaded_is_told_by_every_call(pictures: Path) -> None:
    nowhere = Models(lmm=pictures, head=pictures / "none")

    async def use() -> str:
        async with start_stdio(nowhere, "--root", str(pictures)) as client:
            given = {"image": "a.png", "phrases": ["a cat"]}
            return text_of(await client.call_tool("segment", given))

    assert "none" in asyncio.run(use())


@pytest.fixture(scope="module")
def http_address(models: Models, pictures: Path) -> Iterator[str]:
    """The address of a server in a process of its own, which ends well when it is interrupted."""
    server = subprocess.Popen(
        [
            *COMMAND, "mcp", "--http", "--port", "0", "--api-key", KEY,
            "--root", str(pictures), "--model", str(models.head),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert server.stderr is not None
    try:
        found = re.search(r"http://\S+/mcp", server.stderr.readline())
        assert found is not None
        yield found.group()
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0, server.stderr.read()
    finally:
        server.kill()


@asynccontextmanager
async def connect(address: str, key: str) -> "AsyncIterator[Client]":
    import httpx2
    from mcp import Client
    from mcp.client.streamable_http import streamable_http_client

    headers = {"authorization": f"Bearer {key}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=120, trust_env=False) as http_client,
        Client(streamable_http_client(address, http_client=http_client)) as client,
    ):
        yield client


def test_tools_over_http(http_address: str, models: Models, pictures: Path) -> None:
    expected = Grounder.from_pretrained(models.head).segment(pictures / "a.png", ["a cat"])

    async def use() -> None:
        async with connect(http_address, KEY) as client:
            given = {"image": "a.png", "phrases": ["a cat"]}
            calls = [client.call_tool("segment", given) for _ in range(3)]
            for result in await asyncio.gather(*calls):
                assert result.structured_content["phrases"] == expected.to_dict()["phrases"]
            await check_mistakes(client)

    asyncio.run(use())


def test_http_asks_for_the_key(http_address: str) -> None:
    import httpx

    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    refused = httpx.post(http_address, json=body, trust_env=False)
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
    page = {"authorization": f"Bearer {KEY}", "origin": "http://evil.example"}
    foreign = httpx.post(http_address, json=body, headers=page, trust_env=False)
    assert (foreign.status_code, foreign.json()["error"]["code"]) == (403, "origin_not_allowed")
    assert "flmm serve" not in foreign.json()["error"]["message"]
    rebound = {"authorization": f"Bearer {KEY}", "host": "evil.example"}
    assert httpx.post(http_address, json=body, headers=rebound, trust_env=False).status_code == 403


def test_nothing_but_the_protocol_is_on_standard_output(models: Models) -> None:
    initialize = {
        "jsonrpc": "2.0", "id": 1, "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18", "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        },
    }  # fmt: skip
    done = subprocess.run(
        [*COMMAND, "mcp", "--model", str(models.head)],
        input=json.dumps(initialize) + "\n", capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["result"]["serverInfo"]["name"] == "flmm"


def test_an_address_that_is_taken_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ended = subprocess.run(
            [*COMMAND, "mcp", "--http", "--port", port], capture_output=True, text=True
        )
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert f"cannot listen on 127.0.0.1:{port}" in ended.stderr


def test_mistakes_at_the_start(capsys: pytest.CaptureFixture[str]) -> None:
    assert is_refused(run_in_process(["mcp", "--root", "/no/folder"], capsys), "is no folder")
    unopened = "x" * 300
    refused = run_in_process(["mcp", "--root", unopened], capsys)
    assert is_refused(refused, f"--root '{unopened}' cannot be opened (File name too long)")
    key = ["mcp", "--http", "--api-key", " "]
    assert is_refused(run_in_process(key, capsys), "the API key is empty")
