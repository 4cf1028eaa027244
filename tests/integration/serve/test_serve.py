"""Chats over HTTP, asked with OpenAI's own client."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, cast

import httpx
import numpy as np
import openai
import pytest
from serving import MODEL, QUESTION, data_url, decoded, encoded, noise, running, tiny_grounder

from flmm.answers.answer import Phrase
from flmm.grounding.grounder import Grounder
from flmm.grounding.mask_predictor import MaskPredictor
from flmm.serve.settings import ServerSettings

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionMessageParam

PICTURE = noise()
URL = data_url(encoded(PICTURE))


@pytest.fixture(scope="module")
def grounder() -> Grounder:
    """The same as the server's, which nobody else may use."""
    return tiny_grounder()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running(tiny_grounder(), ServerSettings(port=0)) as address:
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0)


def asked(text: str = QUESTION, urls: Sequence[str] = (URL,)) -> "ChatCompletionMessageParam":
    pictures = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    message = {"role": "user", "content": [*pictures, {"type": "text", "text": text}]}
    return cast("ChatCompletionMessageParam", message)


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError, match="no model 'other'"):
        client.models.retrieve("other")


def test_chat_without_grounding(client: openai.OpenAI, grounder: Grounder) -> None:
    expected = grounder.chat(PICTURE, QUESTION, max_new_tokens=12)
    answer = client.chat.completions.create(model=MODEL, messages=[asked()], max_tokens=12)
    choice = answer.choices[0]
    assert choice.message.content == expected.text
    assert choice.finish_reason == "length"
    assert "grounding" not in (choice.message.model_extra or {})
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == 12 + answer.usage.prompt_tokens


@pytest.mark.parametrize("mask_format", ["rle", "polygon", "png"])
def test_chat_with_grounding(client: openai.OpenAI, grounder: Grounder, mask_format: str) -> None:
    expected = grounder.chat(PICTURE, QUESTION, max_new_tokens=30)
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[asked()],
        max_completion_tokens=30,
        extra_body={"grounding": {"mask_format": mask_format}},
    )
    message = answer.choices[0].message
    assert message.content == expected.text
    found = (message.model_extra or {})["grounding"]
    assert len(found) == len(expected.phrases) > 1
    for phrase, wanted in zip(found, expected.phrases, strict=True):
        assert {**phrase, "mask": None} == {**wanted.to_dict(), "mask": None, "picture": 0}
        assert np.array_equal(decoded(phrase["mask"]), wanted.mask)


def test_streamed_phrases_come_when_their_last_word_is_said(
    client: openai.OpenAI, grounder: Grounder
) -> None:
    expected = grounder.chat(PICTURE, QUESTION, max_new_tokens=30)
    text, early, phrases, reasons = "", 0, [], []
    chunks = client.chat.completions.create(
        model=MODEL,
        messages=[asked()],
        max_tokens=30,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"grounding": {}},
    )
    usage = None
    for chunk in chunks:
        usage = chunk.usage or usage
        if not chunk.choices:
            continue
        choice = chunk.choices[0]
        reasons.append(choice.finish_reason)
        text += choice.delta.content or ""
        for phrase in (choice.delta.model_extra or {}).get("grounding", []):
            assert text[phrase["start"] : phrase["end"]] == phrase["text"]
            phrases.append(phrase)
            early += text != expected.text
    assert text == expected.text
    assert reasons[-1] == "length"
    assert not any(reasons[:-1])
    assert usage is not None
    assert usage.completion_tokens == 30
    assert early
    assert sorted((p["start"], p["end"]) for p in phrases) == [
        (p.start, p.end) for p in expected.phrases
    ]
    by_start = {phrase["start"]: phrase for phrase in phrases}
    for wanted in expected.phrases:
        differing = decoded(by_start[wanted.start]["mask"]) != wanted.mask
        assert differing.mean() < 0.01


def test_words_do_not_run_ahead_of_masks(
    grounder: Grounder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ground(*arguments: object) -> tuple[Phrase, ...]:
        time.sleep(0.2)
        return own(*arguments)

    expected = grounder.chat(PICTURE, QUESTION, max_new_tokens=30).phrases
    assert len(expected) > 2
    own = cast("Callable[..., tuple[Phrase, ...]]", MaskPredictor.predict)
    monkeypatch.setattr(MaskPredictor, "predict", ground)
    text, told = "", []
    with running(tiny_grounder(), ServerSettings(port=0)) as address:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0)
        chunks = client.chat.completions.create(
            model=MODEL, messages=[asked()], max_tokens=30, stream=True,
            extra_body={"grounding": {}},
        )  # fmt: skip
        for chunk in chunks:
            delta = chunk.choices[0].delta
            text += delta.content or ""
            told += [len(text)] * len((delta.model_extra or {}).get("grounding", []))
    assert len(told) == len(expected)
    # While a mask is made, the words go on to the end of the next phrase, and no further.
    for said, after_next in zip(told[:-2], expected[2:], strict=True):
        assert said <= after_next.end


def test_given_phrases_and_the_number_of_phrases(client: openai.OpenAI, grounder: Grounder) -> None:
    said = grounder.chat(PICTURE, QUESTION, max_new_tokens=30).phrases
    wishes: list[tuple[dict[str, object], list[str]]] = [
        ({"phrases": [said[1].text, "a zeppelin"], "refine": False}, [said[1].text]),
        ({"max_phrases": 2}, [phrase.text for phrase in said[:2]]),
    ]
    for wish, texts in wishes:
        for stream in (False, True):
            body = {
                "model": MODEL, "messages": [asked()], "max_tokens": 30, "grounding": wish,
                "stream": stream,
            }  # fmt: skip
            response = httpx.post(f"{client.base_url}chat/completions", json=body, timeout=60)
            assert response.status_code == 200, response.text
            assert response.text.count('"text":') == len(texts)
            assert all(json.dumps(text, ensure_ascii=False) in response.text for text in texts)


def test_stop_texts_end_the_answer(client: openai.OpenAI, grounder: Grounder) -> None:
    whole = grounder.chat(PICTURE, QUESTION, max_new_tokens=30).text
    stop = whole[9:12]
    wanted = whole[: whole.index(stop)]
    answer = client.chat.completions.create(
        model=MODEL, messages=[asked()], max_tokens=30, stop=["never said", stop],
        extra_body={"grounding": {}},
    )  # fmt: skip
    choice = answer.choices[0]
    assert (choice.message.content, choice.finish_reason) == (wanted, "stop")
    for phrase in (choice.message.model_extra or {})["grounding"]:
        assert wanted[phrase["start"] : phrase["end"]] == phrase["text"]
    streamed = client.chat.completions.create(
        model=MODEL, messages=[asked()], max_tokens=30, stop=stop, stream=True
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in streamed]
    assert "".join(pieces) == wanted


def test_a_seed_draws_the_same_answer(client: openai.OpenAI) -> None:
    def drawn(seed: int) -> str | None:
        answer = client.chat.completions.create(
            model=MODEL, messages=[asked()], max_tokens=8, temperature=1.5, seed=seed
        )
        return answer.choices[0].message.content

    assert drawn(1) == drawn(1) != drawn(2)


def test_several_turns_and_pictures(client: openai.OpenAI) -> None:
    other = data_url(encoded(noise(30, 50, seed=1), "JPEG"), "image/jpeg")
    messages: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": "You point at things."},
        asked(urls=(URL, other)),
    ]
    first = client.chat.completions.create(
        model=MODEL, messages=messages, max_tokens=20, extra_body={"grounding": {}}
    )
    # What came is sent back as it is, as people do.
    messages.append(cast("ChatCompletionMessageParam", first.choices[0].message))
    messages.append({"role": "user", "content": "and where?"})
    second = client.chat.completions.create(
        model=MODEL, messages=messages, max_tokens=20, extra_body={"grounding": {}}
    )
    phrases = (second.choices[0].message.model_extra or {})["grounding"]
    assert phrases
    sizes = {phrase["picture"]: phrase["mask"]["size"] for phrase in phrases}
    assert sizes.items() <= {0: [40, 60], 1: [50, 30]}.items()


def test_conversation_without_a_picture(client: openai.OpenAI) -> None:
    hello: ChatCompletionMessageParam = {"role": "user", "content": "hello"}
    wish: dict[str, object] = {"grounding": {}}
    whole = client.chat.completions.create(
        model=MODEL, messages=[hello], max_tokens=5, extra_body=wish
    )
    assert (whole.choices[0].message.model_extra or {})["grounding"] == []
    chunks = client.chat.completions.create(
        model=MODEL, messages=[hello], max_tokens=5, extra_body=wish, stream=True
    )
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "length"
