"""Many clients at once: python benchmarks/serve_load.py --clients 32 --seconds 300

Starts `flmm serve` in a process of its own. First one client and then all of them send requests
without a pause: in turn a chat, a streamed chat and a segmentation of each bundled picture. Prints
one JSON document with the figures and with criteria on them; ends with code 1 if one is not met.

Throughput and times mean something only on an idle machine; memory only over minutes.
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
    """Return a figure with its limit, and whether it is met."""
    met = value >= limit if at_least else value <= limit
    return {
        "asked": f"{name} {'>=' if at_least else '<='} {limit:g}",
        "is": round(value, 4),
        "met": met,
    }


def measure_latency(
    address: str, model: str, rounds: int
) -> tuple[dict[str, float], list[Criterion]]:
    """Measure the times of single answers, with and without grounding in turn."""
    plain, grounded = StreamTimings(), StreamTimings()
    with httpx.Client(base_url=address, timeout=300, trust_env=False) as client:
        for _ in range(rounds):
            time_stream(client, chat_body(model, stream=True), plain)
            time_stream(client, chat_body(model, stream=True, grounding={}), grounded)
    plain_seconds = statistics.median(plain.first_token)
    grounded_seconds = statistics.median(grounded.first_token)
    median, longest = statistics.median(grounded.mask_after_text), max(grounded.mask_after_text)
    figures = {
        "first_token_ms": round(plain_seconds * 1000, 1),
        "first_token_with_grounding_ms": round(grounded_seconds * 1000, 1),
        "mask_after_last_token_median_ms": round(median * 1000, 1),
        "mask_after_last_token_most_ms": round(longest * 1000, 1),
    }
    return figures, [
        check_criterion(
            "time to the first token with grounding, of that without",
            grounded_seconds / plain_seconds,
            1.1,
        ),
        check_criterion(
            "seconds from a phrase's last token to its mask, the longest", longest, 0.15
        ),
    ]


def record_memory(
    process: Process, interval: float, peaks: list[float], done: threading.Event
) -> None:
    """Append the peak memory of every interval of seconds, until ``done`` is set."""
    while not done.wait(interval):
        peaks.append(round(read_peak_memory(process), 1))


def read_batch_counts(address: str) -> tuple[float, float]:
    """Return how many batches the model has run, and how many requests were in them."""
    text = httpx.get(f"{address}/metrics", trust_env=False).text
    values = dict(re.findall(r"^flmm_requests_together_(count|sum) (\S+)$", text, re.MULTILINE))
    return float(values["count"]), float(values["sum"])


def measure_under_load(
    address: str, process: Process, model: str, clients: int, seconds: float
) -> tuple[dict[str, object], list[Criterion]]:
    """Measure throughput and memory with one client, and then with many."""
    alone = run_load(address, model, 1, min(max(seconds / 4, 2.0), 60.0))
    batches, requests = read_batch_counts(address)
    peaks: list[float] = []
    done = threading.Event()
    recorder = threading.Thread(
        target=record_memory, args=(process, max(seconds / 60, 0.5), peaks, done)
    )
    recorder.start()
    began = time.perf_counter()
    many = run_load(address, model, clients, seconds)
    took = time.perf_counter() - began
    done.set()
    recorder.join()
    batches_after, requests_after = read_batch_counts(address)
    rates = alone.answered / max(sum(alone.seconds), 1e-9), many.answered / took
    settled = peaks[len(peaks) // 5 :] or [read_peak_memory(process)]
    changes = [abs(peak / settled[0] - 1) for peak in settled]
    failed = [*alone.failed, *many.failed]
    figures = {
        "clients": clients,
        "seconds": round(took, 1),
        "answered": many.answered,
        "told_to_come_again": many.rejected,
        "failed": failed,
        "answers_a_second_one_client": round(rates[0], 2),
        "answers_a_second": round(rates[1], 2),
        "answered_together_mean": round((requests_after - requests) / (batches_after - batches), 1),
        "seconds_an_answer_median": round(statistics.median(many.seconds), 2),
        "memory_mib": peaks,
    }
    return figures, [
        check_criterion("admitted requests that failed", len(failed), 0),
        check_criterion("answers a second, of one client's", rates[1] / rates[0], 2, at_least=True),
        check_criterion("change of memory after the first fifth, the largest", max(changes), 0.05),
    ]


def wait_until_served(address: str, served: int) -> float:
    """Return the seconds until ``served`` requests hold a slot; gives up after 60."""
    began = time.perf_counter()
    while httpx.get(f"{address}/healthz", trust_env=False).json()["served"] != served:
        if time.perf_counter() - began > 60:
            break
        time.sleep(0.01)
    return time.perf_counter() - began


@contextmanager
def open_stream(address: str, model: str) -> Iterator[Iterator[str]]:
    """Yield the lines of a streamed answer; leaving early disconnects."""
    body = chat_body(model, stream=True, grounding={})
    url = f"{address}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, timeout=300, trust_env=False) as response:
        yield response.iter_lines()


def check_disconnect(address: str, model: str) -> Criterion:
    """Check that a client that disconnects during its answer frees its slot."""
    with open_stream(address, model) as lines:
        for _ in range(6):
            next(lines)
    return check_criterion(
        "seconds until one that went has freed its place", wait_until_served(address, 0), 1
    )


def check_overload(address: str, model: str, queue: int) -> list[Criterion]:
    """Send more requests at once than there are slots."""
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
    """Check that a server that is terminated during an answer finishes it."""
    with open_stream(address, model) as lines:
        next(lines)
        process.send_signal(signal.SIGTERM)
        last = [line for line in lines if line][-1:]
    finished = last == ["data: [DONE]"] and process.wait(60) == 0
    return check_criterion("told to end, it finishes what it has begun", finished, 1, at_least=True)


def measure(
    clients: int, seconds: float, rounds: int, arguments: Sequence[str]
) -> dict[str, object]:
    """Run all measurements; return figures and criteria."""
    with start_server(arguments) as (address, process):
        health = httpx.get(f"{address}/healthz", trust_env=False).json()
        model, queue = health["model"], health["queue"]
        # Warm-up: what is loaded at first use is not measured.
        run_load(address, model, 2, 0.1)
        times, criteria = measure_latency(address, model, rounds)
        figures, load_criteria = measure_under_load(address, process, model, clients, seconds)
        criteria += [
            *load_criteria,
            check_disconnect(address, model),
            *check_overload(address, model, queue),
            check_shutdown(address, process, model),
        ]
    all_met = all(criterion["met"] for criterion in criteria)
    return {**times, **figures, "bars": criteria, "all_met": all_met}


def main() -> int:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--rounds", type=int, default=10, help="streamed answers to time")
    parser.add_argument("serve", nargs="*", help="options of flmm serve, after --")
    options = parser.parse_args()
    result = measure(options.clients, options.seconds, options.rounds, options.serve)
    print(json.dumps(result, indent=1))
    return 0 if result["all_met"] else 1


if __name__ == "__main__":
    sys.exit(main())
