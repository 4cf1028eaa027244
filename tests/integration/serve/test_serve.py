"""Chats over HTTP, with OpenAI's own client."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, cast

import httpx
import numpy as np
import openai
import pytest
from serving import (
    MODEL,
    QUESTION,
    data_url,
    decode_mask,
    encode_picture,
    noise,
    run_server,
    tiny_grounder,
)

from flmm.answers.phrase import Phrase
from flmm.grounding.grounder import Grounder
from flmm.grounding.mask_predictor import MaskPredictor
from flmm.serve.settings import ServerSettings

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionMessageParam

PICTURE = noise()
URL = data_url(encode_picture(PICTURE))


@pytest.fixture(scope="module")
def grounder() -> Grounder:
    """A grounder equal to the server's, which nobody else may use."""
    return tiny_grounder()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with run_server(tiny_grounder(), ServerSettings(port=0)) as address:
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0)


def user_message(
    text: str = QUESTION, urls: Sequence[str] = (URL,)
) -> "ChatCompletionMessageParam":
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
    answer = client.chat.completions.create(model=MODEL, messages=[user_message()], max_tokens=12)
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
        messages=[user_message()],
        max_completion_tokens=30,
        extra_body={"grounding": {"mask_format": mask_format}},
    )
    message = answer.choices[0].message
    assert message.content == expected.text
    phrases = (message.model_extra or {})["grounding"]
    assert len(phrases) == len(expected.phrases) > 1
    for phrase, expected_phrase in zip(phrases, expected.phrases, strict=True):
        expected_fields = {**expected_phrase.to_dict(), "mask": None}
        assert {**phrase, "mask": None} == expected_fields
        assert np.array_equal(decode_mask(phrase["mask"]), expected_phrase.mask)


def test_streamed_phrases_come_after_their_last_word_and_before_the_end(
    client: openai.OpenAI, grounder: Grounder
) -> None:
    expected = grounder.chat(PICTURE, QUESTION, max_new_tokens=30)
    text, early, phrases, reasons = "", 0, [], []
    chunks = client.chat.completions.create(
        model=MODEL,
        messages=[user_message()],
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
    for expected_phrase in expected.phrases:
        mask = decode_mask(by_start[expected_phrase.start]["mask"])
        differing = mask != expected_phrase.mask
        assert differing.mean() < 0.01


def test_streamed_text_waits_for_masks(grounder: Grounder, monkeypatch: pytest.MonkeyPatch) -> None:
    def predict_slowly(*arguments: object) -> tuple[Phrase, ...]:
        time.sleep(0.2)
        return predict(*arguments)

    expected = grounder.chat(PICTURE, QUESTION, max_new_tokens=30).phrases
    assert len(expected) > 2
    predict = cast("Callable[..., tuple[Phrase, ...]]", MaskPredictor.predict)
    monkeypatch.setattr(MaskPredictor, "predict", predict_slowly)
    text, text_lengths = "", []
    with run_server(tiny_grounder(), ServerSettings(port=0)) as address:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0)
        chunks = client.chat.completions.create(
            model=MODEL, messages=[user_message()], max_tokens=30, stream=True,
            extra_body={"grounding": {}},
        )  # fmt: skip
        for chunk in chunks:
            delta = chunk.choices[0].delta
            text += delta.content or ""
            num_phrases = len((delta.model_extra or {}).get("grounding", []))
            text_lengths += [len(text)] * num_phrases
    assert len(text_lengths) == len(expected)
    # While a mask is predicted, the text goes on to the end of the next phrase, and no further.
    for length, after_next in zip(text_lengths[:-2], expected[2:], strict=True):
        assert length <= after_next.end


def test_given_phrases_and_max_phrases(client: openai.OpenAI, grounder: Grounder) -> None:
    phrases = grounder.chat(PICTURE, QUESTION, max_new_tokens=30).phrases
    cases: list[tuple[dict[str, object], list[str]]] = [
        ({"phrases": [phrases[1].text, "a zeppelin"], "refine": False}, [phrases[1].text]),
        ({"max_phrases": 2}, [phrase.text for phrase in phrases[:2]]),
    ]
    for grounding, texts in cases:
        for stream in (False, True):
            body = {
                "model": MODEL, "messages": [user_message()], "max_tokens": 30,
                "grounding": grounding, "stream": stream,
            }  # fmt: skip
            response = httpx.post(f"{client.base_url}chat/completions", json=body, timeout=60)
            assert response.status_code == 200, response.text
            assert response.text.count('"text":') == len(texts)
            assert all(json.dumps(text, ensure_ascii=False) in response.text for text in texts)


def test_stop_strings_end_the_answer(client: openai.OpenAI, grounder: Grounder) -> None:
    full_text = grounder.chat(PICTURE, QUESTION, max_new_tokens=30).text
    stop = full_text[9:12]
    expected = full_text[: full_text.index(stop)]
    answer = client.chat.completions.create(
        model=MODEL, messages=[user_message()], max_tokens=30, stop=["never said", stop],
        extra_body={"grounding": {}},
    )  # fmt: skip
    choice = answer.choices[0]
    assert (choice.message.content, choice.finish_reason) == (expected, "stop")
    for phrase in (choice.message.model_extra or {})["grounding"]:
        assert expected[phrase["start"] : phrase["end"]] == phrase["text"]
    streamed = client.chat.completions.create(
        model=MODEL, messages=[user_message()], max_tokens=30, stop=stop, stream=True
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in streamed]
    assert "".join(pieces) == expected


def test_same_seed_samples_the_same_answer(client: openai.OpenAI) -> None:
    def sample(seed: int) -> str | None:
        answer = client.chat.completions.create(
            model=MODEL, messages=[user_message()], max_tokens=8, temperature=1.5, seed=seed
        )
        return answer.choices[0].message.content

    assert sample(1) == sample(1) != sample(2)


def test_several_turns_and_pictures(client: openai.OpenAI) -> None:
    other = data_url(encode_picture(noise(30, 50, seed=1), "JPEG"), "image/jpeg")
    messages: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": "You point at things."},
        user_message(urls=(URL, other)),
    ]
    first = client.chat.completions.create(
        model=MODEL, messages=messages, max_tokens=20, extra_body={"grounding": {}}
    )
    # The reply is sent back unchanged, as clients do.
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
    grounding: dict[str, object] = {"grounding": {}}
    completion = client.chat.completions.create(
        model=MODEL, messages=[hello], max_tokens=5, extra_body=grounding
    )
    assert (completion.choices[0].message.model_extra or {})["grounding"] == []
    chunks = client.chat.completions.create(
        model=MODEL, messages=[hello], max_tokens=5, extra_body=grounding, stream=True
    )
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "length"
