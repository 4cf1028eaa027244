"""A server in a process of its own, and clients that ask it: what the benchmarks share."""

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
"""What clients ask in turn."""


@dataclass
class RequestCounts:
    """What became of requests."""

    answered: int = 0
    rejected: int = 0
    failed: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


@dataclass
class StreamTimings:
    """Of streamed answers, in seconds."""

    first_token: list[float] = field(default_factory=list)
    mask_after_text: list[float] = field(default_factory=list)
    """From the piece of text that has a phrase's last letter to the phrase."""


@contextmanager
def start_server(arguments: Sequence[str]) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Gives the server's address and its process."""
    command = [sys.executable, "-c", _COMMAND, "serve", "--port", "0", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        address = None
        for line in process.stderr:
            found = re.search(r"http://\S+", line)
            if found:
                address = found.group()
                break
        assert address is not None, "the server did not start"
        # What else it says shall not fill the pipe.
        log = threading.Thread(target=process.stderr.read, daemon=True)
        log.start()
        try:
            yield address, process
        finally:
            process.terminate()
            log.join()


def read_peak_memory(process: "subprocess.Popen[str]") -> float:
    """The most that the process held since it was last asked, in MiB.

    Between two batches a process holds a good deal less than at work: what it holds at one moment
    says little of what it needs.
    """
    place = Path(f"/proc/{process.pid}")
    found = re.search(r"VmHWM:\s+(\d+)", (place / "status").read_text(encoding="ascii"))
    assert found is not None
    (place / "clear_refs").write_text("5", encoding="ascii")
    return int(found.group(1)) / 1024


def picture_url(number: int = 0) -> str:
    """One of the bundled pictures."""
    content = PICTURES[number % len(PICTURES)].read_bytes()
    return f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}"


def chat_body(model: str, number: int = 0, **options: object) -> dict[str, object]:
    """A question about one of the bundled pictures."""
    parts = [
        {"type": "image_url", "image_url": {"url": picture_url(number)}},
        {"type": "text", "text": QUESTION},
    ]
    return {"model": model, "messages": [{"role": "user", "content": parts}], **options}


def send_request(client: httpx.Client, number: int, model: str, counts: RequestCounts) -> None:
    """A client's request of that number, to its end."""
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
    """So many clients, each asking again as soon as it is answered."""
    counts = RequestCounts()
    until = time.perf_counter() + seconds

    def work(number: int) -> None:
        with httpx.Client(base_url=address, timeout=300, trust_env=False) as client:
            turn = number
            while time.perf_counter() < until:
                send_request(client, turn, model, counts)
                turn += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return counts


def time_stream(client: httpx.Client, body: dict[str, object], timings: StreamTimings) -> None:
    """One streamed answer, with its times."""
    began = time.perf_counter()
    said: list[float] = []
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        for line in response.iter_lines():
            if not line.startswith("data: {"):
                continue
            delta = json.loads(line[6:])["choices"][0]["delta"]
            now = time.perf_counter()
            said.extend([now] * len(delta.get("content") or ""))
            if said and said[0] == now:
                timings.first_token.append(now - began)
            for phrase in delta.get("grounding") or []:
                timings.mask_after_text.append(now - said[phrase["end"] - 1])
