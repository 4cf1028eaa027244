"""A short run of the fuzz tests of benchmarks/serve_fuzz.py."""

import time
from collections.abc import Iterator

import httpx
import pytest
from serve_fuzz import fuzz_api, fuzz_pictures
from serving import run_server, tiny_grounder

from flmm.serve.openai.response_models import ModelList
from flmm.serve.plain import routes
from flmm.serve.settings import Limits, ServerSettings

SETTINGS = ServerSettings(
    port=0, limits=Limits(answer_tokens=2, phrases=3, pixels=100_000, prompt_tokens=1500)
)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with run_server(tiny_grounder(), SETTINGS) as address:
        yield address
        assert httpx.get(f"{address}/healthz").json()["served"] == 0


def test_generated_requests(address: str) -> None:
    findings = fuzz_api(address, 60, first=0, cases_per_seed=6)
    assert findings.failures == []
    assert findings.done >= 60
    assert findings.statuses[200]
    assert findings.statuses[400]


@pytest.mark.filterwarnings("ignore:::PIL")
def test_damaged_pictures(address: str) -> None:
    findings = fuzz_pictures(address, 80, first=0)
    assert findings.failures == []
    assert findings.statuses[200]
    assert findings.statuses[400]


def test_failures_are_reported_with_their_request(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    with monkeypatch.context() as broken:
        broken.setattr("flmm.serve.protection.uploaded_pictures.PictureReader._check_size", fail)
        (failure,) = fuzz_pictures(address, 1, first=1).failures
        assert "number 1: 500 for image/" in failure
    with monkeypatch.context() as broken:
        # A response that does not fit the schema.
        broken.setattr("flmm.serve.plain.routes._build_answer_reply", lambda *_: ModelList(data=[]))
        failures = fuzz_api(address, 40, first=0, cases_per_seed=10).failures
        assert any("curl" in failure and "schema" in failure for failure in failures)


def test_what_failed_once_is_reported(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    build_reply, calls = routes._build_answer_reply, []

    def build_slowly_once(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 1:
            time.sleep(3)
        return build_reply(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(routes, "_build_answer_reply", build_slowly_once)
    monkeypatch.setattr("serve_fuzz._TIMEOUT_SECONDS", 2)
    failures = fuzz_api(address, 40, first=0, cases_per_seed=10).failures
    assert any("unreliable" in failure and "timeout" in failure for failure in failures)
