"""What OpenAI's clients send beside the question: taken, done, or refused in plain words."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, cast

import httpx
import openai
import pytest
from serving import (
    KEY,
    LIMITED,
    MODEL,
    QUESTION,
    create_client,
    data_url,
    encode_picture,
    error_of,
    noise,
    run_limited_server,
    run_server,
    tiny_grounder,
)

from flmm.errors import InputError
from flmm.serve.settings import ServerSettings

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionMessageParam

URL = data_url(encode_picture(noise()))
PICTURE = {"type": "image_url", "image_url": {"url": URL}}
TEXT = {"type": "text", "text": QUESTION}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with run_limited_server(tiny_grounder()) as client:
        yield client


@pytest.fixture(scope="module")
def openai_client(client: httpx.Client) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{client.base_url}/v1", api_key=KEY, max_retries=0)


def post(client: httpx.Client, **changes: object) -> httpx.Response:
    body = {"model": MODEL, "messages": [{"role": "user", "content": [PICTURE, TEXT]}]}
    return client.post("/v1/chat/completions", json={**body, "max_tokens": 8, **changes})


def answer(client: httpx.Client, **changes: object) -> str:
    response = post(client, **changes)
    assert response.status_code == 200, response.text
    return cast(str, response.json()["choices"][0]["message"]["content"])


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": []},
        {"tools": [TOOL], "tool_choice": "auto", "parallel_tool_calls": True},
        {"tools": [TOOL], "tool_choice": "none", "functions": [{}], "function_call": "auto"},
        {"store": True, "metadata": {"a": "b"}, "user": "me", "service_tier": "auto"},
        {"logit_bias": {}, "logprobs": False, "top_logprobs": 0, "modalities": ["text"]},
        {"top_p": 0.5, "top_k": 4, "min_p": 0.1, "repetition_penalty": 1, "temperature": 0},
        {"response_format": {"type": "text"}, "reasoning_effort": "none", "verbosity": "medium"},
        {"stream_options": {"include_usage": True}, "prompt_cache_key": "a", "prediction": {}},
        dict.fromkeys(
            ("temperature", "tools", "tool_choice", "logit_bias", "n", "stop", "stream", "seed",
             "grounding", "response_format", "web_search_options", "something_new")
        ),
    ],
)  # fmt: skip
def test_fields_that_cannot_change_the_answer(
    client: httpx.Client, fields: Mapping[str, object]
) -> None:
    assert answer(client, **fields) == answer(client)


def test_each_unused_field_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with run_server(tiny_grounder(), LIMITED) as address, create_client(address) as client:
        for _ in range(2):
            post(client, tools=[TOOL], top_p=0.5, web_search_options=None)
    messages = [record.message for record in caplog.records if record.name == "flmm.serve"]
    assert len(messages) == 3
    for name in ("tools", "top_p", "web_search_options"):
        assert sum(repr(name) in message for message in messages) == 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"tools": [TOOL], "tool_choice": "required"}, "calls no tools"),
        ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "calls no tools"),
        ({"response_format": {"type": "json_object"}}, "cannot be held to JSON"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "cannot be held to JSON"),
        ({"logprobs": True}, "log probabilities"),
        ({"logit_bias": {"5": 10}}, "bias"),
        ({"reasoning_effort": "high"}, "effort 'high'"),
        ({"verbosity": "low"}, "verbosity"),
        ({"modalities": ["text", "audio"]}, "text only"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}, {"role": "user"}]},
            "neither calls tools",
        ),
    ],
)
def test_what_the_model_cannot_do_is_refused(
    client: httpx.Client, fields: Mapping[str, object], words: str
) -> None:
    response = post(client, **fields)
    assert error_of(response) == (400, "unsupported_value")
    assert words in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"role": "tool", "content": "5", "tool_call_id": "1"}, "role 'tool' is not taken"),
        ({"role": "user", "content": [{"type": "input_audio"}]}, "type 'input_audio'"),
    ],
)
def test_other_messages_are_refused_by_name(
    client: httpx.Client, message: Mapping[str, object], words: str
) -> None:
    response = post(client, messages=[message])
    assert error_of(response) == (400, "invalid_value")
    assert words in response.json()["error"]["message"]


def test_forms_of_one_question(client: httpx.Client) -> None:
    """All of them mean the same."""
    jpg = URL.replace("image/png", "image/jpg")
    named = URL.replace(";base64", ";name=a.png;base64")
    expected = answer(client)
    for content in (
        [{"type": "image_url", "image_url": URL}, TEXT],
        [TEXT, {"type": "image_url", "image_url": {"url": jpg, "detail": None}}],
        [{"type": "image_url", "image_url": {"url": named, "detail": "original"}}, TEXT],
        [PICTURE, {**TEXT, "cache_control": {"type": "ephemeral"}}],
    ):
        assert answer(client, messages=[{"role": "user", "content": content}]) == expected
    picture_alone = {"role": "user", "content": [PICTURE], "name": None}
    text_alone = {"role": "user", "content": QUESTION}
    empty_system = {"role": "system", "content": ""}
    assert answer(client, messages=[picture_alone, text_alone]) == expected
    assert answer(client, messages=[empty_system, text_alone, picture_alone]) == expected
    # A picture alone is a question too.
    assert answer(client, messages=[picture_alone])


def test_limit_of_tokens_cuts_the_answer(client: httpx.Client) -> None:
    cut = post(client, max_tokens=40).json()["choices"][0]
    assert cut["finish_reason"] == "length"
    for above in (100_000, 10**30):
        assert post(client, max_tokens=above).json()["choices"][0] == cut
        newer = post(client, max_tokens=None, max_completion_tokens=above)
        assert newer.json()["choices"][0] == cut


def test_an_answer_is_sent_back_as_the_client_parsed_it(openai_client: openai.OpenAI) -> None:
    question = cast("ChatCompletionMessageParam", {"role": "user", "content": [PICTURE, TEXT]})
    grounding: dict[str, object] = {"grounding": {}}
    completion = openai_client.chat.completions.create(
        model=MODEL, messages=[question], max_tokens=30, extra_body=grounding
    )
    # The client refuses an answer that is cut by the limit of tokens.
    stop = (completion.choices[0].message.content or "")[-4:]
    with openai_client.chat.completions.stream(
        model=MODEL, messages=[question], max_tokens=30, stop=stop, extra_body=grounding
    ) as stream:
        streamed = stream.get_final_completion().choices[0].message
    phrases = (streamed.model_extra or {})["grounding"]
    assert len(phrases) > 1
    assert [phrase["index"] for phrase in phrases] == list(range(len(phrases)))
    whole = completion.choices[0].message
    second: ChatCompletionMessageParam = {"role": "user", "content": "and where?"}
    texts = set()
    for message in (whole.model_dump(), {**streamed.model_dump(), "content": whole.content}):
        assert message["tool_calls"] is message["annotations"] is None
        history = cast("list[ChatCompletionMessageParam]", [question, message, second])
        followed = openai_client.chat.completions.create(
            model=MODEL, messages=history, max_tokens=5
        )
        texts.add(followed.choices[0].message.content)
    assert len(texts) == 1


def test_earlier_answer_without_content(client: httpx.Client) -> None:
    turns = [{"role": "assistant", "content": None}, {"role": "user", "content": "and now?"}]
    question = {"role": "user", "content": [PICTURE, TEXT]}
    assert answer(client, messages=[question, *turns])


def test_sampling_settings_are_used(client: httpx.Client) -> None:
    hot = {"temperature": 2.0, "seed": 3}
    greedy = answer(client)
    assert answer(client, **hot) != greedy
    for settings in ({"top_p": 0.0}, {"top_k": 1}, {"min_p": 1.0}):
        assert answer(client, **hot, **settings) == greedy
    for settings in ({"presence_penalty": -2}, {"frequency_penalty": -2.0}):
        assert answer(client, **settings) != greedy
    assert answer(client, repetition_penalty=0.1) != greedy


def test_refusals_name_fields_as_they_were_sent(client: httpx.Client) -> None:
    picture = {"type": "image_url", "image_url": {"url": URL, "detail": "huge"}}
    response = post(client, messages=[{"role": "user", "content": [picture, TEXT]}])
    assert error_of(response) == (400, "invalid_value")
    assert response.json()["error"]["param"] == "messages[0].content[0].image_url.detail"


def test_several_answers_to_one_question(openai_client: openai.OpenAI) -> None:
    question = cast("ChatCompletionMessageParam", {"role": "user", "content": [PICTURE, TEXT]})
    completion = openai_client.chat.completions.create(
        model=MODEL, messages=[question], max_tokens=20, n=3, temperature=1.5, seed=7,
        extra_body={"grounding": {"max_phrases": 2}},
    )  # fmt: skip
    texts = [choice.message.content or "" for choice in completion.choices]
    assert len(set(texts)) == 3
    assert [choice.index for choice in completion.choices] == [0, 1, 2]
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 60
    # Each is the answer that its own seed gives.
    for index, text in enumerate(texts):
        alone = openai_client.chat.completions.create(
            model=MODEL, messages=[question], max_tokens=20, temperature=1.5, seed=7 + index
        )
        assert alone.choices[0].message.content == text
    largest = openai_client.chat.completions.create(
        model=MODEL, messages=[question], max_tokens=1, n=2, temperature=1.5, seed=2**63 - 1
    )
    assert len(largest.choices) == 2
    with openai_client.chat.completions.stream(
        model=MODEL, messages=[question], max_tokens=20, n=3, temperature=1.5, seed=7,
        extra_body={"grounding": {"max_phrases": 2}},
    ) as stream:  # fmt: skip
        stream.until_done()
        # The final completion is refused by the client itself where an answer is cut.
        streamed = stream.current_completion_snapshot.choices
    assert [choice.message.content for choice in streamed] == texts
    for choice in streamed:
        phrases = (choice.message.model_extra or {})["grounding"]
        assert [phrase["index"] for phrase in phrases] == list(range(len(phrases)))
        for phrase in phrases:
            span = slice(phrase["start"], phrase["end"])
            assert (choice.message.content or "")[span] == phrase["text"]


def test_pages_of_allowed_origins_may_ask() -> None:
    allowed = "http://localhost:3000"
    settings = ServerSettings(port=0, api_key=KEY, allowed_origins=(allowed,))
    with run_server(tiny_grounder(), settings) as address:
        preflight = httpx.options(
            f"{address}/v1/chat/completions",
            headers={
                "origin": allowed,
                "access-control-request-method": "POST",
                "access-control-request-headers": "authorization,content-type,x-stainless-os",
            },
        )
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == allowed
        assert "x-stainless-os" in preflight.headers["access-control-allow-headers"]
        models = httpx.get(
            f"{address}/v1/models", headers={"origin": allowed, "authorization": f"Bearer {KEY}"}
        )
        assert models.status_code == 200
        assert models.headers["access-control-allow-origin"] == allowed
        # Its own refusals can be read by the page as well.
        without_key = httpx.get(f"{address}/v1/models", headers={"origin": allowed})
        assert error_of(without_key) == (401, "invalid_api_key")
        assert without_key.headers["access-control-allow-origin"] == allowed
        other = httpx.get(f"{address}/v1/models", headers={"origin": "http://localhost:3001"})
        assert error_of(other) == (403, "origin_not_allowed")
        assert "access-control-allow-origin" not in other.headers
    for wrong in ("localhost:3000", "*", "http://localhost:3000/", "https://*.org"):
        with pytest.raises(InputError, match="is none; give scheme"):
            ServerSettings(allowed_origins=(wrong,))


def test_health_has_both_names(client: httpx.Client) -> None:
    for path in ("/health", "/healthz"):
        assert httpx.get(f"{client.base_url}{path}").json()["status"] == "ok"
