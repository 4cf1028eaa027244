"""Many clients at once, clients that go away, and a server that is told to end."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import httpx
import pytest
from PIL import Image
from serving import data_url, decoded, encoded, error_of, noise, running
from tiny_grounding import save_lmm, save_tiny_head, tiny_head
from torch import Tensor

from flmm.grounding.grounder import Grounder
from flmm.grounding.mask_predictor import MaskPredictor
from flmm.lmm.families.llava import LlavaAdapter
from flmm.serve.settings import Limits, ServerSettings
from flmm.stopwatch import Stopwatch

Phrases = list[dict[str, dict[str, object]]]

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "serve_load.py"
URL = data_url(encoded(noise()))
LONG = 1500
"""Tokens, which take the tiny model some seconds."""


@pytest.fixture(scope="module")
def grounder() -> Grounder:
    return Grounder(LlavaAdapter.build_tiny(), tiny_head(), model="tiny")


@pytest.fixture
def address(grounder: Grounder) -> Iterator[str]:
    settings = ServerSettings(port=0, queue=4, together=2, limits=Limits(answer_tokens=LONG))
    with running(grounder, settings) as address:
        yield address


def chat(tokens: int, **more: object) -> dict[str, object]:
    content = [
        {"type": "image_url", "image_url": {"url": URL}},
        {"type": "text", "text": "what?"},
    ]
    messages = [{"role": "user", "content": content}]
    return {"model": "tiny", "messages": messages, "max_tokens": tokens, **more}


def served(address: str) -> int:
    count = httpx.get(f"{address}/healthz").json()["served"]
    assert isinstance(count, int)
    return count


def wait_until(true: Callable[[], bool], seconds: float) -> float:
    """How long it took; fails where it takes longer."""
    began = time.perf_counter()
    while not true():
        assert time.perf_counter() - began < seconds
        time.sleep(0.02)
    return time.perf_counter() - began


def ask(address: str, body: dict[str, object]) -> httpx.Response:
    return httpx.post(f"{address}/v1/chat/completions", json=body, timeout=60)


def test_one_too_many_is_told_to_come_again(address: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        admitted = [pool.submit(ask, address, chat(60, stop=["never"])) for _ in range(4)]
        wait_until(lambda: served(address) == 4, 5)
        refused = ask(address, chat(1))
        assert error_of(refused) == (429, "busy")
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert all(one.result().status_code == 200 for one in admitted)
    assert ask(address, chat(1)).status_code == 200


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("grounding", [None, {}])
def test_who_goes_frees_a_place_within_a_second(
    address: str, stream: bool, grounding: dict[str, object] | None
) -> None:
    body = chat(LONG, stream=stream, grounding=grounding)
    if stream:
        with httpx.stream(
            "POST", f"{address}/v1/chat/completions", json=body, timeout=60
        ) as response:
            pieces = response.iter_lines()
            for _ in range(6):
                next(pieces)
            assert served(address) == 1
    else:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{address}/v1/chat/completions", json=body, timeout=0.4)
    wait_until(lambda: served(address) == 0, 1)
    # The model itself has stopped as well, so that the next one need not wait for it.
    began = time.perf_counter()
    assert ask(address, chat(1)).status_code == 200
    assert time.perf_counter() - began < 1.5


def test_who_goes_while_waiting_is_never_answered(address: str) -> None:
    with ThreadPoolExecutor(2) as pool:
        first = [pool.submit(ask, address, chat(90)) for _ in range(2)]
        wait_until(lambda: served(address) == 2, 5)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{address}/v1/chat/completions", json=chat(LONG), timeout=0.3)
        wait_until(lambda: served(address) <= 2, 1)
        assert all(one.result().status_code == 200 for one in first)
    wait_until(lambda: served(address) == 0, 1)


def test_together_each_gets_its_own_answer(grounder: Grounder) -> None:
    questions = [f"what is {number} of?" for number in range(6)]
    settings = ServerSettings(port=0, together=6)
    # Some lie alike, so that their masks are made in one pass.
    pictures = [noise(40 + number // 4, 50, seed=number) for number in range(6)]
    expected = [
        grounder.chat(picture, question, max_new_tokens=12).to_dict()
        for picture, question in zip(pictures, questions, strict=True)
    ]
    segments = [grounder.segment(picture, ["a cat"]).to_dict() for picture in pictures]
    with running(grounder, settings) as address, ThreadPoolExecutor(12) as pool:

        def ground(number: int) -> dict[str, object]:
            url = data_url(encoded(pictures[number]))
            body = {"image": url, "question": questions[number], "max_tokens": 12}
            return dict(httpx.post(f"{address}/v1/ground", json=body, timeout=60).json())

        def segment(number: int) -> dict[str, object]:
            body = {"image": data_url(encoded(pictures[number])), "phrases": ["a cat"]}
            return dict(httpx.post(f"{address}/v1/segment", json=body, timeout=60).json())

        answers = pool.map(ground, range(6))
        segmented = pool.map(segment, range(6))
        for answer, wanted in zip([*answers, *segmented], [*expected, *segments], strict=True):
            assert answer["text"] == wanted["text"], answer
            assert answer["size"] == wanted["size"]
            found, expected_phrases = (cast(Phrases, one["phrases"]) for one in (answer, wanted))
            for phrase, other in zip(found, expected_phrases, strict=True):
                assert (decoded(phrase["mask"]) != decoded(other["mask"])).mean() < 0.01
        metrics = httpx.get(f"{address}/metrics").text
    (answered,) = re.findall(r"flmm_requests_together_count (\S+)", metrics)
    assert float(answered) < 12


def test_masks_that_fail_are_one_requests_alone(
    grounder: Grounder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def embed(masks: MaskPredictor, picture: Image.Image, watch: Stopwatch) -> Tensor | None:
        if picture.tobytes() == noise(seed=3).tobytes():
            raise RuntimeError("a bug")
        return own(masks, picture, watch)

    own = MaskPredictor.embed_picture
    monkeypatch.setattr(MaskPredictor, "embed_picture", embed)
    with running(grounder, ServerSettings(port=0)) as address, ThreadPoolExecutor(6) as pool:

        def segment(number: int) -> int:
            body = {"image": data_url(encoded(noise(seed=number))), "phrases": ["a cat"]}
            return httpx.post(f"{address}/v1/segment", json=body, timeout=60).status_code

        assert list(pool.map(segment, range(6))) == [200, 200, 200, 500, 200, 200]


def test_a_failure_is_one_requests_alone(
    grounder: Grounder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(grounder, ServerSettings(port=0)) as address:

        def fail(*_: object) -> None:
            raise RuntimeError("a bug with a secret in it")

        with monkeypatch.context() as broken:
            broken.setattr("flmm.serve.workers.chat_job.ChatJob._extract_spans", fail)
            whole = ask(address, chat(3, grounding={}))
            assert error_of(whole) == (500, "internal_error")
            assert "secret" not in whole.text
            streamed = ask(address, chat(3, grounding={}, stream=True))
            last = streamed.text.strip().split("\n")[-1].removeprefix("data: ")
            assert json.loads(last)["error"]["code"] == "internal_error"
            assert "secret" not in streamed.text
            assert ask(address, chat(3)).status_code == 200
        with monkeypatch.context() as broken:
            broken.setattr("flmm.serve.workers.chat_job.trace_generation_batch", fail)
            assert error_of(ask(address, chat(3))) == (500, "internal_error")
        assert ask(address, chat(3, grounding={})).status_code == 200
        assert served(address) == 0


def test_what_is_begun_is_finished_before_the_end(tmp_path: Path) -> None:
    lmm = save_lmm(tmp_path / "lmm")
    head = save_tiny_head(tmp_path / "head", str(lmm))
    command = [
        sys.executable, "-c", "from flmm.cli.main import run; run()", "serve",
        "--model", str(head), "--port", "0",
    ]  # fmt: skip
    environment = {**os.environ, "FLMM_API_KEY": "key"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        told = process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+$", told)
        assert found is not None, told
        body = {**chat(60, stream=True, grounding={}), "model": str(head)}
        headers = {"authorization": "Bearer key"}
        url = f"{found.group()}/v1/chat/completions"
        assert httpx.post(url, json=body).status_code == 401
        with httpx.stream("POST", url, json=body, headers=headers, timeout=60) as response:
            pieces = response.iter_lines()
            next(pieces)
            process.send_signal(signal.SIGTERM)
            lines = [line for line in pieces if line]
        assert lines[-1] == "data: [DONE]"
        assert json.loads(lines[-2][6:])["choices"][0]["finish_reason"] == "length"
        rest = process.stderr.read()
        assert process.wait(20) == 0, rest
        assert rest == ""


def test_a_short_load() -> None:
    """The embedded model, asked by eight clients; the long version is the benchmark itself."""
    command = [
        sys.executable, str(BENCHMARK), "--clients", "8", "--seconds", "3", "--rounds", "1", "--",
        "--queue", "16",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    result = json.loads(done.stdout)
    assert result["failed"] == []
    assert result["answered"] >= 8
    assert result["answered_together_mean"] > 1.2
    # Times and memory are for a quiet machine and more seconds.
    for name in ("failed", "freed its place", "come again", "others answered", "told to end"):
        (bar,) = [bar for bar in result["bars"] if name in bar["asked"]]
        assert bar["met"], bar
    assert done.returncode == (0 if result["all_met"] else 1)
