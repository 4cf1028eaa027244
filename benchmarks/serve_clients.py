"""A server in a process of its own, and clients of it: what the benchmarks share."""

import base64
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

import flmm

PICTURES = sorted((Path(flmm.__file__).parent / "assets" / "pictures").glob("*.png"))
QUESTION = "What is in the picture?"
_COMMAND = "from flmm.cli.main import run; run()"
_REQUEST_TYPES = ("chat", "stream", "segment")
"""What clients send in turn."""


@dataclass
class RequestCounts:
    """Outcomes of requests, and the seconds of the answered ones."""

    answered: int = 0
    rejected: int = 0
    failed: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


@dataclass
class StreamTimings:
    """Timings of streamed answers, in seconds."""

    first_token: list[float] = field(default_factory=list)
    mask_after_text: list[float] = field(default_factory=list)
    """From the chunk with a phrase's last character to the chunk with its mask."""


@contextmanager
def start_server(arguments: Sequence[str]) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Run ``flmm serve``; yield the server's address and its process."""
    command = [sys.executable, "-c", _COMMAND, "serve", "--port", "0", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        address = None
        for line in process.stderr:
            match = re.search(r"http://\S+", line)
            if match:
                address = match.group()
                break
        assert address is not None, "the server did not start"
        # Read on, so that the server never blocks on a full pipe.
        log = threading.Thread(target=process.stderr.read, daemon=True)
        log.start()
        try:
            yield address, process
        finally:
            process.terminate()
            log.join()


def read_peak_memory(process: "subprocess.Popen[str]") -> float:
    """Return the process' peak memory since the last call, in MiB, and reset it.

    The peak, since a process holds far less between two batches than during one.
    """
    folder = Path(f"/proc/{process.pid}")
    match = re.search(r"VmHWM:\s+(\d+)", (folder / "status").read_text(encoding="ascii"))
    assert match is not None
    (folder / "clear_refs").write_text("5", encoding="ascii")
    return int(match.group(1)) / 1024


def picture_url(number: int = 0) -> str:
    """Return the data URL of a bundled picture."""
    content = PICTURES[number % len(PICTURES)].read_bytes()
    return f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}"


def chat_body(model: str, number: int = 0, **options: object) -> dict[str, object]:
    """Return the body of a chat about a bundled picture."""
    parts = [
        {"type": "image_url", "image_url": {"url": picture_url(number)}},
        {"type": "text", "text": QUESTION},
    ]
    return {"model": model, "messages": [{"role": "user", "content": parts}], **options}


def send_request(client: httpx.Client, number: int, model: str, counts: RequestCounts) -> None:
    """Send the request of that number, and count its outcome."""
    kind = _REQUEST_TYPES[number % len(_REQUEST_TYPES)]
    began = time.perf_counter()
    try:
        if kind == "segment":
            body: dict[str, object] = {
                "image": picture_url(number),
                "phrases": ["the cat", "the dog"],
            }
            response = client.post("/v1/segment", json=body)
        else:
            body = chat_body(model, number, grounding={}, stream=kind == "stream")
            response = client.post("/v1/chat/completions", json=body)
    except httpx.HTTPError as error:
        counts.failed.append(f"{kind}: {error!r}")
        return
    if response.status_code == 429:
        counts.rejected += 1
        time.sleep(float(response.headers["retry-after"]))
    elif response.status_code != 200 or (kind == "stream" and "[DONE]" not in response.text):
        counts.failed.append(f"{kind}: {response.status_code} {response.text[:200]}")
    else:
        counts.answered += 1
        counts.seconds.append(time.perf_counter() - began)


def run_load(address: str, model: str, clients: int, seconds: float) -> RequestCounts:
    """Run clients that each send the next request as soon as the last one is answered."""
    counts = RequestCounts()
    deadline = time.perf_counter() + seconds

    def work(number: int) -> None:
        with httpx.Client(base_url=address, timeout=300, trust_env=False) as client:
            request_number = number
            while time.perf_counter() < deadline:
                send_request(client, request_number, model, counts)
                request_number += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return counts


def time_stream(client: httpx.Client, body: dict[str, object], timings: StreamTimings) -> None:
    """Stream one answer, and add its timings."""
    began = time.perf_counter()
    character_times: list[float] = []
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        for line in response.iter_lines():
            if not line.startswith("data: {"):
                continue
            delta = json.loads(line[6:])["choices"][0]["delta"]
            now = time.perf_counter()
            character_times.extend([now] * len(delta.get("content") or ""))
            if character_times and character_times[0] == now:
                timings.first_token.append(now - began)
            for phrase in delta.get("grounding") or []:
                timings.mask_after_text.append(now - character_times[phrase["end"] - 1])
