"""Many clients at once: python benchmarks/serve_load.py --clients 32 --seconds 300

Starts `flmm serve` in a process of its own and asks it, first by one client and then by all of
them without a pause. Prints one JSON document: failures, throughput against one client's, memory
over time, time to the first token with and without grounding, and the time from a phrase's last
token to its mask. Ends with code 1 where a request that was admitted failed.
"""

import argparse
import base64
import json
import re
import statistics
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

PICTURE = Path(flmm.__file__).parent / "assets" / "pictures" / "demo.png"
QUESTION = "What is in the picture?"
_COMMAND = "from flmm.cli.main import run; run()"
_KINDS = ("chat", "stream", "segment")
"""What clients ask in turn."""


@dataclass
class Counts:
    """What became of requests."""

    done: int = 0
    busy: int = 0
    failed: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


@dataclass
class Times:
    """Of streamed answers, in seconds."""

    first_token: list[float] = field(default_factory=list)
    mask: list[float] = field(default_factory=list)
    """From the piece of text that has a phrase's last letter to the phrase."""


@contextmanager
def serving(arguments: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Gives the server's address and its process's number."""
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
            yield address, process.pid
        finally:
            process.terminate()
            log.join()


def memory(process: int) -> float:
    """What the process holds, in MiB."""
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    found = re.search(r"VmRSS:\s+(\d+)", status)
    assert found is not None
    return int(found.group(1)) / 1024


def picture_url() -> str:
    return f"data:image/png;base64,{base64.b64encode(PICTURE.read_bytes()).decode('ascii')}"


def chat_body(model: str, **more: object) -> dict[str, object]:
    parts = [
        {"type": "image_url", "image_url": {"url": picture_url()}},
        {"type": "text", "text": QUESTION},
    ]
    return {"model": model, "messages": [{"role": "user", "content": parts}], **more}


def ask(client: httpx.Client, kind: str, model: str, counts: Counts) -> None:
    """One request, to its end."""
    began = time.perf_counter()
    try:
        if kind == "segment":
            body: dict[str, object] = {"image": picture_url(), "phrases": ["the cat", "the dog"]}
            response = client.post("/v1/segment", json=body)
        else:
            body = chat_body(model, grounding={}, stream=kind == "stream")
            response = client.post("/v1/chat/completions", json=body)
    except httpx.HTTPError as error:
        counts.failed.append(f"{kind}: {error!r}")
        return
    if response.status_code == 429:
        counts.busy += 1
        time.sleep(float(response.headers["retry-after"]))
    elif response.status_code != 200 or (kind == "stream" and "[DONE]" not in response.text):
        counts.failed.append(f"{kind}: {response.status_code} {response.text[:200]}")
    else:
        counts.done += 1
        counts.seconds.append(time.perf_counter() - began)


def load(address: str, model: str, clients: int, seconds: float) -> Counts:
    """So many clients, each asking again as soon as it is answered."""
    counts = Counts()
    until = time.perf_counter() + seconds

    def work(number: int) -> None:
        with httpx.Client(base_url=address, timeout=300, trust_env=False) as client:
            turn = number
            while time.perf_counter() < until:
                ask(client, _KINDS[turn % len(_KINDS)], model, counts)
                turn += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return counts


def stream_once(client: httpx.Client, body: dict[str, object], times: Times) -> None:
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
                times.first_token.append(now - began)
            for phrase in delta.get("grounding") or []:
                times.mask.append(now - said[phrase["end"] - 1])


def latency(address: str, model: str, rounds: int) -> dict[str, float]:
    """Times of an answer with nobody else there, in milliseconds; with and without in turn."""
    plain, grounded = Times(), Times()
    with httpx.Client(base_url=address, timeout=300, trust_env=False) as client:
        for _ in range(rounds):
            stream_once(client, chat_body(model, stream=True), plain)
            stream_once(client, chat_body(model, stream=True, grounding={}), grounded)
    without = statistics.median(plain.first_token)
    with_it = statistics.median(grounded.first_token)
    return {
        "first_token_ms": round(without * 1000, 1),
        "first_token_with_grounding_ms": round(with_it * 1000, 1),
        "ratio": round(with_it / without, 3),
        "mask_after_last_token_median_ms": round(statistics.median(grounded.mask) * 1000, 1),
        "mask_after_last_token_most_ms": round(max(grounded.mask) * 1000, 1),
    }


def watch_memory(process: int, every: float, seen: list[float], done: threading.Event) -> None:
    """Notes the memory until the load is done."""
    while not done.wait(every):
        seen.append(round(memory(process), 1))


def together(address: str) -> tuple[float, float]:
    """How many groups of requests the model has answered, and how many requests in them."""
    text = httpx.get(f"{address}/metrics", trust_env=False).text
    found = dict(re.findall(r"^flmm_requests_together_(count|sum) (\S+)$", text, re.MULTILINE))
    return float(found["count"]), float(found["sum"])


def measure(
    clients: int, seconds: float, rounds: int, arguments: Sequence[str]
) -> dict[str, object]:
    """The whole measurement."""
    with serving(arguments) as (address, process):
        health = httpx.get(f"{address}/healthz", trust_env=False).json()
        model = health["model"]
        # What is loaded at first use is not what is measured.
        load(address, model, 1, 0.1)
        times = latency(address, model, rounds)
        alone_seconds = min(max(seconds / 4, 2.0), 60.0)
        alone = load(address, model, 1, alone_seconds)
        groups, requests = together(address)
        seen: list[float] = []
        done = threading.Event()
        watcher = threading.Thread(
            target=watch_memory, args=(process, max(seconds / 60, 0.5), seen, done)
        )
        watcher.start()
        began = time.perf_counter()
        many = load(address, model, clients, seconds)
        took = time.perf_counter() - began
        done.set()
        watcher.join()
        after = httpx.get(f"{address}/healthz", trust_env=False).json()
        more_groups, more_requests = together(address)
    rates = (sum(alone.seconds) and alone.done / sum(alone.seconds), many.done / took)
    settled = seen[len(seen) // 5 :] or seen
    return {
        "clients": clients,
        "seconds": round(took, 1),
        "latency": times,
        "answered": many.done,
        "told_to_come_again": many.busy,
        "failed": [*alone.failed, *many.failed],
        "answers_a_second_one_client": round(rates[0], 2),
        "answers_a_second": round(rates[1], 2),
        "throughput_ratio": round(rates[1] / rates[0], 2) if rates[0] else None,
        "answered_together_mean": round((more_requests - requests) / (more_groups - groups), 1),
        "seconds_an_answer_median": round(statistics.median(many.seconds), 2),
        "memory_mib": seen,
        "memory_change_after_the_first_fifth": round(settled[-1] / settled[0] - 1, 4),
        "places_still_held": after["served"],
    }


def main() -> int:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--rounds", type=int, default=10, help="streamed answers to time")
    parser.add_argument("serve", nargs="*", help="options of flmm serve, after --")
    given = parser.parse_args()
    result = measure(given.clients, given.seconds, given.rounds, given.serve)
    print(json.dumps(result, indent=1))
    return 1 if result["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
