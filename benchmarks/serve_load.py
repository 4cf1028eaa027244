"""Many clients at once: python benchmarks/serve_load.py --clients 32 --seconds 300

Starts `flmm serve` in a process of its own and asks it, first by one client and then by all of
them without a pause, in turn for a chat, a streamed chat and a segmentation of each of the bundled
pictures. Prints one JSON document with the figures, and what is asked of each and whether it is
met. Ends with code 1 where one is not.

Throughput and times mean something only where nothing else runs; memory where it takes minutes.
"""

import argparse
import json
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
from serve_clients import (
    RequestCounts,
    StreamTimings,
    chat_body,
    read_peak_memory,
    run_load,
    start_server,
    time_stream,
)

Process = subprocess.Popen[str]
Criterion = dict[str, object]


def check_criterion(name: str, value: float, limit: float, at_least: bool = False) -> Criterion:
    """A figure, and what is asked of it."""
    met = value >= limit if at_least else value <= limit
    return {
        "asked": f"{name} {'>=' if at_least else '<='} {limit:g}",
        "is": round(value, 4),
        "met": met,
    }


def measure_latency(
    address: str, model: str, rounds: int
) -> tuple[dict[str, float], list[Criterion]]:
    """Times of an answer with nobody else there; with and without grounding in turn."""
    plain, grounded = StreamTimings(), StreamTimings()
    with httpx.Client(base_url=address, timeout=300, trust_env=False) as client:
        for _ in range(rounds):
            time_stream(client, chat_body(model, stream=True), plain)
            time_stream(client, chat_body(model, stream=True, grounding={}), grounded)
    without = statistics.median(plain.first_token)
    with_it = statistics.median(grounded.first_token)
    median, most = statistics.median(grounded.mask_after_text), max(grounded.mask_after_text)
    figures = {
        "first_token_ms": round(without * 1000, 1),
        "first_token_with_grounding_ms": round(with_it * 1000, 1),
        "mask_after_last_token_median_ms": round(median * 1000, 1),
        "mask_after_last_token_most_ms": round(most * 1000, 1),
    }
    return figures, [
        check_criterion(
            "time to the first token with grounding, of that without", with_it / without, 1.1
        ),
        check_criterion("seconds from a phrase's last token to its mask, the longest", most, 0.15),
    ]


def record_memory(process: Process, every: float, seen: list[float], done: threading.Event) -> None:
    """Notes the memory until the load is done."""
    while not done.wait(every):
        seen.append(round(read_peak_memory(process), 1))


def read_batch_counts(address: str) -> tuple[float, float]:
    """How many groups of requests the model has answered, and how many requests in them."""
    text = httpx.get(f"{address}/metrics", trust_env=False).text
    found = dict(re.findall(r"^flmm_requests_together_(count|sum) (\S+)$", text, re.MULTILINE))
    return float(found["count"]), float(found["sum"])


def measure_under_load(
    address: str, process: Process, model: str, clients: int, seconds: float
) -> tuple[dict[str, object], list[Criterion]]:
    """One client, and then many."""
    alone = run_load(address, model, 1, min(max(seconds / 4, 2.0), 60.0))
    groups, requests = read_batch_counts(address)
    seen: list[float] = []
    done = threading.Event()
    watcher = threading.Thread(
        target=record_memory, args=(process, max(seconds / 60, 0.5), seen, done)
    )
    watcher.start()
    began = time.perf_counter()
    many = run_load(address, model, clients, seconds)
    took = time.perf_counter() - began
    done.set()
    watcher.join()
    more_groups, more_requests = read_batch_counts(address)
    rates = alone.answered / max(sum(alone.seconds), 1e-9), many.answered / took
    settled = seen[len(seen) // 5 :] or [read_peak_memory(process)]
    changes = [abs(one / settled[0] - 1) for one in settled]
    failed = [*alone.failed, *many.failed]
    figures = {
        "clients": clients,
        "seconds": round(took, 1),
        "answered": many.answered,
        "told_to_come_again": many.rejected,
        "failed": failed,
        "answers_a_second_one_client": round(rates[0], 2),
        "answers_a_second": round(rates[1], 2),
        "answered_together_mean": round((more_requests - requests) / (more_groups - groups), 1),
        "seconds_an_answer_median": round(statistics.median(many.seconds), 2),
        "memory_mib": seen,
    }
    return figures, [
        check_criterion("admitted requests that failed", len(failed), 0),
        check_criterion("answers a second, of one client's", rates[1] / rates[0], 2, at_least=True),
        check_criterion("change of memory after the first fifth, the largest", max(changes), 0.05),
    ]


def wait_until_served(address: str, served: int) -> float:
    """Seconds until so many requests hold a place."""
    began = time.perf_counter()
    while httpx.get(f"{address}/healthz", trust_env=False).json()["served"] != served:
        if time.perf_counter() - began > 60:
            break
        time.sleep(0.01)
    return time.perf_counter() - began


@contextmanager
def open_stream(address: str, model: str) -> Iterator[Iterator[str]]:
    """Gives the lines of a streamed answer; who leaves early hangs up."""
    body = chat_body(model, stream=True, grounding={})
    url = f"{address}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, timeout=300, trust_env=False) as response:
        yield response.iter_lines()


def check_disconnect(address: str, model: str) -> Criterion:
    """A client that goes in the middle of an answer."""
    with open_stream(address, model) as lines:
        for _ in range(6):
            next(lines)
    return check_criterion(
        "seconds until one that went has freed its place", wait_until_served(address, 0), 1
    )


def check_overload(address: str, model: str, queue: int) -> list[Criterion]:
    """More at once than there are places."""
    extra = 16
    counts = RequestCounts()

    def ask(client: httpx.Client) -> None:
        response = client.post("/v1/chat/completions", json=chat_body(model, max_tokens=2))
        if response.status_code == 429 and int(response.headers["retry-after"]) >= 1:
            counts.rejected += 1
        elif response.status_code == 200:
            counts.answered += 1

    with (
        httpx.Client(
            base_url=address, timeout=300, trust_env=False, limits=_UNLIMITED_CONNECTIONS
        ) as client,
        ThreadPoolExecutor(queue + extra) as pool,
    ):
        for _ in range(queue + extra):
            pool.submit(ask, client)
    return [
        check_criterion(
            "of those at once, told to come again, with Retry-After", counts.rejected, 1, True
        ),
        check_criterion(
            "the others answered", counts.answered, queue + extra - counts.rejected, True
        ),
    ]


_UNLIMITED_CONNECTIONS = httpx.Limits(max_connections=None)


def check_shutdown(address: str, process: Process, model: str) -> Criterion:
    """A server that is told to end in the middle of an answer."""
    with open_stream(address, model) as lines:
        next(lines)
        process.send_signal(signal.SIGTERM)
        last = [line for line in lines if line][-1:]
    finished = last == ["data: [DONE]"] and process.wait(60) == 0
    return check_criterion("told to end, it finishes what it has begun", finished, 1, at_least=True)


def measure(
    clients: int, seconds: float, rounds: int, arguments: Sequence[str]
) -> dict[str, object]:
    """The whole measurement."""
    with start_server(arguments) as (address, process):
        health = httpx.get(f"{address}/healthz", trust_env=False).json()
        model, queue = health["model"], health["queue"]
        # What is loaded at first use is not what is measured.
        run_load(address, model, 2, 0.1)
        times, bars = measure_latency(address, model, rounds)
        figures, more = measure_under_load(address, process, model, clients, seconds)
        bars += [*more, check_disconnect(address, model), *check_overload(address, model, queue)]
        bars.append(check_shutdown(address, process, model))
    return {**times, **figures, "bars": bars, "all_met": all(one["met"] for one in bars)}


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
    return 0 if result["all_met"] else 1


if __name__ == "__main__":
    sys.exit(main())
