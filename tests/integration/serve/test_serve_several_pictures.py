"""Conversations about several pictures over HTTP: each phrase's picture and mask."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import openai
import pytest
from PIL import Image
from serving import data_url, decode_mask, encode_picture, run_server

import flmm
from flmm.answers.answer import Answer
from flmm.attention.trace import Trace
from flmm.attention.tracing import trace_texts
from flmm.grounding import several_pictures
from flmm.grounding.grounder import Grounder
from flmm.lmm.base import LMMAdapter
from flmm.lmm.prompt import Prompt
from flmm.serve.settings import ServerSettings
from flmm.serve.workers import answer_job

PICTURES = Path(flmm.__file__).parent / "assets" / "pictures"
BOTH = [Image.open(PICTURES / name).convert("RGB") for name in ("demo.png", "sea.png")]
QUESTION = "What is in the pictures?"
Reply = tuple[str, list[dict[str, Any]], bool]


@pytest.fixture(scope="module")
def grounder() -> Grounder:
    """A grounder equal to the server's; the embedded model's scores are calibrated."""
    return Grounder.from_pretrained()


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    with run_server(Grounder.from_pretrained(), ServerSettings(port=0)) as address:
        yield openai.OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0)


@pytest.fixture(scope="module")
def expected(grounder: Grounder) -> Answer:
    answer = grounder.chat(BOTH, QUESTION)
    assert {phrase.picture for phrase in answer.phrases} == {0, 1}
    return answer


def build_body(pictures: Sequence[Image.Image], **grounding: object) -> dict[str, Any]:
    urls = [data_url(encode_picture(picture)) for picture in pictures]
    content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    message = {"role": "user", "content": [*content, {"type": "text", "text": QUESTION}]}
    return {"messages": [message], "grounding": grounding}


def ask(
    client: openai.OpenAI,
    pictures: Sequence[Image.Image] = BOTH,
    stream: bool = False,
    **grounding: object,
) -> Reply:
    """Return the text, the phrases, and whether each phrase came after the whole text."""
    body = build_body(pictures, **grounding)
    create = client.chat.completions.create
    model, extra = client.models.list().data[0].id, {"grounding": body["grounding"]}
    if not stream:
        answer = create(model=model, messages=body["messages"], extra_body=extra)
        said = answer.choices[0].message
        return said.content or "", (said.model_extra or {})["grounding"], True
    text, phrases, lengths = "", [], set()
    for chunk in create(model=model, messages=body["messages"], extra_body=extra, stream=True):
        delta = chunk.choices[0].delta
        text += delta.content or ""
        for phrase in (delta.model_extra or {}).get("grounding", []):
            phrases.append(phrase)
            lengths.add(len(text))
    return text, phrases, lengths == {len(text)}


def check(answer: Reply, expected: Answer) -> None:
    text, phrases, came_last = answer
    assert text == expected.text
    assert came_last
    assert [(phrase["text"], phrase["picture"]) for phrase in phrases] == [
        (phrase.text, phrase.picture) for phrase in expected.phrases
    ]
    for phrase, same in zip(phrases, expected.phrases, strict=True):
        assert phrase["score"] == pytest.approx(same.score, abs=1e-4)
        assert phrase["mask"]["size"] == list(same.mask.shape)
        assert (decode_mask(phrase["mask"]) != same.mask).mean() < 1e-3


@pytest.mark.parametrize("stream", [False, True])
def test_phrases_are_in_the_pictures_that_python_finds(
    client: openai.OpenAI, expected: Answer, stream: bool
) -> None:
    check(ask(client, stream=stream), expected)


@pytest.mark.parametrize("stream", [False, True])
def test_only_the_chosen_mask_of_a_phrase_counts(
    client: openai.OpenAI, grounder: Grounder, stream: bool
) -> None:
    # Two phrases that begin together, and a limit that all masks in the wrong picture miss.
    phrases = ["a", "a cat", "a pineapple", "a frog"]
    expected = grounder.chat(BOTH, QUESTION, phrases, min_score=0.5)
    assert {phrase.text: phrase.picture for phrase in expected.phrases}["a frog"] == 1
    check(ask(client, stream=stream, phrases=phrases, min_score=0.5), expected)


def test_chats_at_the_same_time(
    client: openai.OpenAI, grounder: Grounder, expected: Answer
) -> None:
    alone = grounder.chat(BOTH[0], QUESTION)
    turned = grounder.chat(BOTH[::-1], QUESTION)
    asked = [BOTH, BOTH[:1], BOTH[::-1], BOTH[:1]]
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = list(pool.map(lambda pictures: ask(client, pictures), asked))
    for answer, same in zip(answers, [expected, alone, turned, alone], strict=True):
        check(answer, same)


def test_an_lmm_that_the_engine_does_not_run(
    client: openai.OpenAI, expected: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_job, "find_unsupported_reason", lambda _: "for this test")
    check(ask(client), expected)


def test_one_picture_is_read_once_and_streamed_early(
    client: openai.OpenAI, grounder: Grounder, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = grounder.chat(BOTH[0], QUESTION)
    monkeypatch.delattr(several_pictures, "trace_texts")
    text, phrases, came_last = ask(client, BOTH[:1], stream=True)
    assert text == alone.text
    assert [phrase["text"] for phrase in phrases] == [phrase.text for phrase in alone.phrases]
    assert not came_last


def test_kmeans_has_no_scores_and_goes_by_attention(
    client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(several_pictures, "trace_texts")
    assert ask(client, method="kmeans")[1]


def test_an_answer_that_cannot_be_read_again_fails_alone(
    client: openai.OpenAI, expected: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(several_pictures, "trace_texts", fail)
        with ThreadPoolExecutor(2) as pool:
            failing = pool.submit(ask, client)
            assert pool.submit(ask, client, BOTH[:1]).result()[1]
            with pytest.raises(openai.InternalServerError):
                failing.result()
        with pytest.raises(openai.APIError):
            ask(client, stream=True)
    check(ask(client), expected)


def test_a_client_that_goes_away_while_its_answer_is_read_again(
    client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = [], Event()

    def read_slowly(adapter: LMMAdapter, prompts: Sequence[Prompt]) -> list[Trace]:
        begun.append(time.perf_counter())
        go_on.wait(10)
        return trace_texts(adapter, prompts)

    def count_served() -> int:
        return int(httpx.get(f"{client.base_url}".replace("/v1/", "/healthz")).json()["served"])

    def wait_for(condition: Callable[[], object]) -> None:
        end = time.perf_counter() + 10
        while not condition():
            assert time.perf_counter() < end
            time.sleep(0.01)

    monkeypatch.setattr(several_pictures, "trace_texts", read_slowly)
    body = {**build_body(BOTH), "model": client.models.list().data[0].id, "stream": True}
    with httpx.stream("POST", f"{client.base_url}chat/completions", json=body, timeout=30):
        wait_for(lambda: begun)
    wait_for(lambda: count_served() == 0)
    go_on.set()
    assert ask(client, BOTH[:1])[1]
    assert len(begun) == 1, "the second picture was read for nobody"
