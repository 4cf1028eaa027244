"""Many clients at once, clients that disconnect, and a server that is terminated."""

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
from serving import data_url, decode_mask, encode_picture, error_of, noise, run_server
from tiny_grounding import save_lmm, save_tiny_head, tiny_head

from flmm.grounding.grounder import Grounder
from flmm.grounding.mask_predictor import MaskPredictor
from flmm.lmm.families.llava import LlavaAdapter
from flmm.segmenters.prompts import PictureEmbeddings
from flmm.serve.settings import Limits, ServerSettings
from flmm.stopwatch import Stopwatch

Phrases = list[dict[str, dict[str, object]]]

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "serve_load.py"
URL = data_url(encode_picture(noise()))
LONG = 1500
"""Tokens; the tiny model needs some seconds for them."""


@pytest.fixture(scope="module")
def grounder() -> Grounder:
    return Grounder(LlavaAdapter.build_tiny(), tiny_head(), model="tiny")


@pytest.fixture
def address(grounder: Grounder) -> Iterator[str]:
    settings = ServerSettings(
        port=0, queue_capacity=4, max_batch_size=2, limits=Limits(answer_tokens=LONG)
    )
    with run_server(grounder, settings) as address:
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


def wait_until(condition: Callable[[], bool], seconds: float) -> float:
    """Return how long it took; fail where it takes longer."""
    began = time.perf_counter()
    while not condition():
        assert time.perf_counter() - began < seconds
        time.sleep(0.02)
    return time.perf_counter() - began


def ask(address: str, body: dict[str, object]) -> httpx.Response:
    return httpx.post(f"{address}/v1/chat/completions", json=body, timeout=60)


def test_full_queue_refuses_with_retry_after(address: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        admitted = [pool.submit(ask, address, chat(400, stop=["never"])) for _ in range(4)]
        wait_until(lambda: served(address) == 4, 5)
        refused = ask(address, chat(1))
        assert error_of(refused) == (429, "busy")
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert all(future.result().status_code == 200 for future in admitted)
    assert ask(address, chat(1)).status_code == 200


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("grounding", [None, {}])
def test_disconnect_frees_the_slot_within_a_second(
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
    # The model has stopped as well, so that the next request need not wait for it.
    began = time.perf_counter()
    assert ask(address, chat(1)).status_code == 200
    assert time.perf_counter() - began < 1.5


def test_disconnect_in_the_queue_frees_the_slot(address: str) -> None:
    with ThreadPoolExecutor(2) as pool:
        first = [pool.submit(ask, address, chat(90)) for _ in range(2)]
        wait_until(lambda: served(address) == 2, 5)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{address}/v1/chat/completions", json=chat(LONG), timeout=0.3)
        wait_until(lambda: served(address) <= 2, 1)
        assert all(future.result().status_code == 200 for future in first)
    wait_until(lambda: served(address) == 0, 1)


def test_request_is_answered_while_an_earlier_one_goes_on(address: str) -> None:
    alone = ask(address, chat(5)).json()["choices"]
    body = chat(LONG, stream=True)
    with httpx.stream("POST", f"{address}/v1/chat/completions", json=body, timeout=60) as response:
        pieces = response.iter_lines()
        for _ in range(6):
            next(pieces)
        assert ask(address, chat(5)).json()["choices"] == alone
        segment = {"image": URL, "phrases": ["a cat"]}
        assert httpx.post(f"{address}/v1/segment", json=segment, timeout=60).status_code == 200
        assert served(address) == 1, "the long answer was waited for"


def test_batched_answers_equal_those_alone(grounder: Grounder) -> None:
    questions = [f"what is {number} of?" for number in range(6)]
    settings = ServerSettings(port=0, max_batch_size=6)
    # Some have one geometry, so that their masks are predicted in one pass.
    pictures = [noise(40 + number // 4, 50, seed=number) for number in range(6)]
    expected = [
        grounder.chat(picture, question, max_new_tokens=12).to_dict()
        for picture, question in zip(pictures, questions, strict=True)
    ]
    segments = [grounder.segment(picture, ["a cat"]).to_dict() for picture in pictures]
    with run_server(grounder, settings) as address, ThreadPoolExecutor(12) as pool:

        def ground(number: int) -> dict[str, object]:
            url = data_url(encode_picture(pictures[number]))
            body = {"image": url, "question": questions[number], "max_tokens": 12}
            return dict(httpx.post(f"{address}/v1/ground", json=body, timeout=60).json())

        def segment(number: int) -> dict[str, object]:
            body = {"image": data_url(encode_picture(pictures[number])), "phrases": ["a cat"]}
            return dict(httpx.post(f"{address}/v1/segment", json=body, timeout=60).json())

        answers = pool.map(ground, range(6))
        segmented = pool.map(segment, range(6))
        for answer, alone in zip([*answers, *segmented], [*expected, *segments], strict=True):
            assert answer["text"] == alone["text"], answer
            assert answer["size"] == alone["size"]
            phrases, phrases_alone = (cast(Phrases, item["phrases"]) for item in (answer, alone))
            for phrase, other in zip(phrases, phrases_alone, strict=True):
                assert (decode_mask(phrase["mask"]) != decode_mask(other["mask"])).mean() < 0.01
        metrics = httpx.get(f"{address}/metrics").text
    (num_batches,) = re.findall(r"flmm_requests_together_count (\S+)", metrics)
    assert float(num_batches) < 12


def test_mask_failure_ends_one_request_only(
    grounder: Grounder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def embed(
        predictor: MaskPredictor, picture: Image.Image, stopwatch: Stopwatch
    ) -> PictureEmbeddings | None:
        if picture.tobytes() == noise(seed=3).tobytes():
            raise RuntimeError("a bug")
        return embed_picture(predictor, picture, stopwatch)

    embed_picture = MaskPredictor.embed_picture
    monkeypatch.setattr(MaskPredictor, "embed_picture", embed)
    with run_server(grounder, ServerSettings(port=0)) as address, ThreadPoolExecutor(6) as pool:

        def segment(number: int) -> int:
            body = {"image": data_url(encode_picture(noise(seed=number))), "phrases": ["a cat"]}
            return httpx.post(f"{address}/v1/segment", json=body, timeout=60).status_code

        assert list(pool.map(segment, range(6))) == [200, 200, 200, 500, 200, 200]


def test_failure_ends_one_request_only(grounder: Grounder, monkeypatch: pytest.MonkeyPatch) -> None:
    with run_server(grounder, ServerSettings(port=0)) as address:

        def fail(*_: object) -> None:
            raise RuntimeError("a bug with a secret in it")

        with monkeypatch.context() as broken:
            broken.setattr("flmm.serve.workers.chat_job.ChatJob._extract_spans", fail)
            response = ask(address, chat(3, grounding={}))
            assert error_of(response) == (500, "internal_error")
            assert "secret" not in response.text
            streamed = ask(address, chat(3, grounding={}, stream=True))
            last = streamed.text.strip().split("\n")[-1].removeprefix("data: ")
            assert json.loads(last)["error"]["code"] == "internal_error"
            assert "secret" not in streamed.text
            assert ask(address, chat(3)).status_code == 200
        for method in ("add", "step"):
            with monkeypatch.context() as broken:
                broken.setattr(f"flmm.attention.answer_batch.AnswerBatch.{method}", fail)
                assert error_of(ask(address, chat(3))) == (500, "internal_error")
        assert ask(address, chat(3, grounding={})).status_code == 200
        assert served(address) == 0


def test_terminated_server_finishes_running_answers(tmp_path: Path) -> None:
    lmm = save_lmm(tmp_path / "lmm")
    head = save_tiny_head(tmp_path / "head", str(lmm))
    command = [
        sys.executable, "-c", "from flmm.cli.main import run; run()", "serve",
        "--model", str(head), "--port", "0",
    ]  # fmt: skip
    environment = {**os.environ, "FLMM_API_KEY": "key"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        match = re.search(r"http://127\.0\.0\.1:\d+$", line)
        assert match is not None, line
        body = {**chat(60, stream=True, grounding={}), "model": str(head)}
        headers = {"authorization": "Bearer key"}
        url = f"{match.group()}/v1/chat/completions"
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
    """A short run of the benchmark: the embedded model and eight clients."""
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
    # Times and memory mean something only on an idle machine and over more seconds.
    for name in ("failed", "freed its place", "come again", "others answered", "told to end"):
        (bar,) = [bar for bar in result["bars"] if name in bar["asked"]]
        assert bar["met"], bar
    assert done.returncode == (0 if result["all_met"] else 1)
