"""Fuzz tests of the server: python benchmarks/serve_fuzz.py --api 10000 --pictures 10000

Runs a server on the embedded model in this process. `--api` sends requests that schemathesis
generates from /openapi.json, valid and invalid ones, and checks the responses against it;
`--pictures` sends damaged pictures as data URLs and as files. Prints each failure with the smallest
request that was found to cause it, and ends with code 1 if there is any.

An interrupted run is resumed with `--first` and the number in its last line of progress.
"""

import argparse
import base64
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import hypothesis
import schemathesis
from hypothesis import strategies
from picture_damage import damage_picture, valid_png
from schemathesis import checks as general_checks
from schemathesis.checks import CheckFunction
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.specs.openapi import checks as openapi_checks

from flmm.grounding.grounder import Grounder
from flmm.serve.server import create_server, listen
from flmm.serve.settings import Limits, ServerSettings

Case = schemathesis.Case[Any]
CHECKS: list[CheckFunction] = [
    general_checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_headers_conformance,
    openapi_checks.response_schema_conformance,
]
_NO_RESPONSE = 599
_TIMEOUT_SECONDS = 60
_CONCURRENCY = 8
_VALID_PNG = valid_png()
_LIMITS = Limits(answer_tokens=3, phrases=4, prompt_tokens=600, pixels=4_000_000)


@dataclass
class Findings:
    """Progress, failures and statuses of a run."""

    total: int
    done: int = 0
    failures: list[str] = field(default_factory=list)
    start_time: float = field(default_factory=time.monotonic)
    statuses: dict[int, int] = field(default_factory=dict)
    _last_report: float = 0.0

    def add_failure(self, description: str) -> None:
        """Add and print a failure."""
        self.failures.append(description)
        print(description, flush=True)

    def count_response(self, status: int) -> None:
        """Count a response."""
        self.done += 1
        self.statuses[status] = self.statuses.get(status, 0) + 1

    def report_progress(self, option: str, number: int) -> None:
        """Print the progress, at most twice a minute."""
        now = time.monotonic()
        if now - self._last_report < 30 and self.done < self.total:
            return
        self._last_report = now
        rate = self.done / max(now - self.start_time, 1e-9)
        seconds_left = max(self.total - self.done, 0) / max(rate, 1e-9)
        print(
            f"{option}: {self.done} of {self.total}, {rate:.0f} a second,"
            f" {seconds_left / 60:.0f} min left,"
            f" {len(self.failures)} broken; --first {number}",
            file=sys.stderr,
        )


@contextmanager
def start_server() -> Iterator[str]:
    """Run a server; yield its address."""
    settings = ServerSettings(port=0, limits=_LIMITS)
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    with listen(settings) as server_socket:
        server = create_server(Grounder.from_pretrained(), settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [server_socket]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{server_socket.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def fuzz_api(address: str, total: int, first: int, cases_per_seed: int = 50) -> Findings:
    """Send requests generated from /openapi.json, and check the responses against it.

    Each number is a seed of ``cases_per_seed`` requests to one route, valid or invalid ones.
    """
    findings = Findings(total)
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    model = httpx.get(f"{address}/healthz", trust_env=False).json()["model"]
    operations = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
    modes = list(schemathesis.GenerationMode)
    turns = [(operation, mode) for mode in modes for operation in operations if operation.body]
    turns += [(operation, mode) for operation in operations for mode in modes[:1]]
    number = first
    while findings.done < total:
        operation, mode = turns[number % len(turns)]
        cases = operation.as_strategy(generation_mode=mode)
        try:
            count = min(cases_per_seed, total - findings.done)
            _send_cases(cases, number, count, findings, address, model)
        except hypothesis.errors.Unsatisfiable:
            # An operation without input has no invalid requests.
            turns.remove((operation, mode))
        except Exception as failure:
            findings.add_failure(
                f"--api, number {number}, {operation.label}:\n{_describe(failure)}"
            )
        number += 1
        findings.report_progress("--api", number)
    return findings


def _describe(failure: BaseException) -> str:
    if isinstance(failure, hypothesis.errors.FlakyFailure):
        # What failed once, and not when the same request was sent again, such as a timeout.
        return "\n".join([str(failure), *map(_describe, failure.exceptions)])
    return str(failure)


def _send_cases(
    cases: strategies.SearchStrategy[Case],
    seed: int,
    count: int,
    findings: Findings,
    address: str,
    model: str,
) -> None:
    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        deadline=None,
        report_multiple_bugs=False,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        verbosity=hypothesis.Verbosity.quiet,
    )
    @hypothesis.given(case=cases, fill_in=strategies.integers(0, 3))
    def send(case: Case, fill_in: int) -> None:
        if fill_in:
            _fill_valid_values(case.body, model)
        # A slow machine is no failure of the server.
        response = case.call(base_url=address, timeout=_TIMEOUT_SECONDS)
        findings.count_response(response.status_code)
        try:
            case.validate_response(response, checks=CHECKS)
        except FailureGroup as failure:
            # Hypothesis makes smaller what raises an Exception, which this group is not.
            raise AssertionError(str(failure)) from failure

    send()


def _fill_valid_values(body: object, model: str) -> None:
    """Fill in a real picture and the model's name: few requests would pass validation without."""
    if isinstance(body, list):
        for part in body:
            _fill_valid_values(part, model)
    if not isinstance(body, dict):
        return
    for key, value in body.items():
        if key == "image" and isinstance(value, bytes):
            body[key] = _VALID_PNG
        elif key in ("image", "url") and isinstance(value, str):
            body[key] = _url(_VALID_PNG, "image/png")
        elif key == "model" and isinstance(value, str):
            body[key] = model
        else:
            _fill_valid_values(value, model)


def _url(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def fuzz_pictures(address: str, total: int, first: int) -> Findings:
    """Send damaged pictures, half of them as data URLs and half as files."""
    findings = Findings(total)
    with (
        httpx.Client(base_url=address, timeout=_TIMEOUT_SECONDS, trust_env=False) as client,
        ThreadPoolExecutor(_CONCURRENCY) as pool,
    ):

        def send(number: int) -> None:
            content, kind = damage_picture(number)
            status = _send_picture(client, content, kind, number)
            findings.count_response(status)
            if status not in (200, 400, 415):
                smallest = content
                # Without a response, each try would take until the timeout.
                if status != _NO_RESPONSE:
                    smallest = minimise_content(
                        content, lambda part: _send_picture(client, part, kind, number)
                    )
                findings.add_failure(
                    f"--pictures, number {number}: {status} for {kind} {smallest.hex()}"
                )

        for begin in range(first, first + total, _CONCURRENCY):
            list(pool.map(send, range(begin, min(begin + _CONCURRENCY, first + total))))
            findings.report_progress("--pictures", begin + _CONCURRENCY)
    return findings


def _send_picture(client: httpx.Client, content: bytes, kind: str, number: int) -> int:
    """Return the response's status; ``_NO_RESPONSE`` where there is none."""
    try:
        return _post_picture(client, content, kind, number).status_code
    except httpx.HTTPError:
        return _NO_RESPONSE


def _post_picture(client: httpx.Client, content: bytes, kind: str, number: int) -> httpx.Response:
    if number % 2:
        files = {"image": ("a", content, kind)}
        fields = {"phrases": "a", "refine": "false"}
        return client.post("/v1/segment", data=fields, files=files)
    body = {"image": _url(content, kind), "phrases": ["a"], "refine": False}
    return client.post("/v1/segment", json=body)


def minimise_content(content: bytes, status: Callable[[bytes], int]) -> bytes:
    """Return the content without the parts that are not needed for a status of 500 or more."""
    length = len(content) // 2
    while length:
        offset = 0
        while offset < len(content):
            shorter = content[:offset] + content[offset + length :]
            if status(shorter) >= 500:
                content = shorter
            else:
                offset += length
        length //= 2
    return content


def main() -> int:
    """Run the fuzz tests, and print the failures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--api", type=int, default=0, help="requests of the description")
    parser.add_argument("--pictures", type=int, default=0, help="damaged pictures")
    parser.add_argument("--first", type=int, default=0, help="number to begin with")
    options = parser.parse_args()
    num_failures = 0
    with start_server() as address:
        for name, fuzz, total in (
            ("--api", fuzz_api, options.api),
            ("--pictures", fuzz_pictures, options.pictures),
        ):
            if total:
                findings = fuzz(address, total, options.first)
                statuses = dict(sorted(findings.statuses.items()))
                print(
                    f"{name}: {findings.done} requests, {len(findings.failures)} broken,"
                    f" {statuses}",
                    flush=True,
                )
                num_failures += len(findings.failures)
        held = httpx.get(f"{address}/healthz", trust_env=False).json()["served"]
        print(f"slots still held: {held}")
    return 1 if num_failures or held else 0


if __name__ == "__main__":
    sys.exit(main())
