"""A short run of the fuzz tests of benchmarks/serve_fuzz.py."""

from collections.abc import Iterator

import httpx
import pytest
from serve_fuzz import fuzz_api, fuzz_pictures
from serving import run_server, tiny_grounder

from flmm.serve.openai.response_models import ModelList
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
