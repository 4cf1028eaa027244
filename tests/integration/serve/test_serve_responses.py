"""Responses over HTTP, with OpenAI's own client."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, cast

import httpx
import openai
import pytest
from openai.types.responses import ResponseOutputMessage
from serving import (
    KEY,
    MODEL,
    QUESTION,
    data_url,
    encode_picture,
    error_of,
    noise,
    run_limited_server,
    tiny_grounder,
)

if TYPE_CHECKING:
    from openai.types.responses import Response, ResponseInputParam

URL = data_url(encode_picture(noise()))
CONTENT = [
    {"type": "input_text", "text": QUESTION},
    {"type": "input_image", "image_url": URL, "detail": "auto"},
]
INPUT = cast("ResponseInputParam", [{"role": "user", "content": CONTENT}])
GROUNDING: dict[str, object] = {"grounding": {}}


@pytest.fixture(scope="module")
def http_client() -> Iterator[httpx.Client]:
    with run_limited_server(tiny_grounder()) as client:
        yield client


@pytest.fixture(scope="module")
def client(http_client: httpx.Client) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{http_client.base_url}/v1", api_key=KEY, max_retries=0)


def message_of(response: "Response") -> ResponseOutputMessage:
    (message,) = response.output
    assert isinstance(message, ResponseOutputMessage)
    return message


def chat(client: openai.OpenAI, *messages: Mapping[str, object], max_tokens: int = 30) -> object:
    """Return the same answer from the chat interface."""
    picture = {"type": "image_url", "image_url": {"url": URL}}
    question = {"role": "user", "content": [picture, {"type": "text", "text": QUESTION}]}
    completion = client.chat.completions.create(
        model=MODEL, messages=cast("list[openai.types.chat.ChatCompletionMessageParam]",
        [question, *messages]), max_tokens=max_tokens, extra_body=GROUNDING,
    )  # fmt: skip
    return completion.choices[0].message


def test_answer_equals_that_of_a_chat(client: openai.OpenAI) -> None:
    response = client.responses.create(
        model=MODEL, input=INPUT, max_output_tokens=30, extra_body=GROUNDING
    )
    expected = cast("openai.types.chat.ChatCompletionMessage", chat(client))
    message = message_of(response)
    assert response.output_text == expected.content
    assert (message.model_extra or {})["grounding"] == (expected.model_extra or {})["grounding"]
    assert (response.status, message.status) == ("incomplete", "incomplete")
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.usage is not None
    assert response.usage.output_tokens == 30
    assert response.usage.total_tokens == 30 + response.usage.input_tokens
    plain = client.responses.create(model=MODEL, input=INPUT, max_output_tokens=30)
    assert plain.output_text == expected.content
    assert "grounding" not in (message_of(plain).model_extra or {})


def test_instructions_and_earlier_turns(client: openai.OpenAI) -> None:
    first = client.responses.create(
        model=MODEL, input=INPUT, max_output_tokens=20, extra_body=GROUNDING
    )
    second = {"role": "user", "content": "and where?"}
    expected = chat(client, {"role": "assistant", "content": first.output_text}, second)
    # As the client gives it, or written by hand.
    written = {
        "type": "message",
        "role": "assistant",
        "content": [{"type": "output_text", "text": first.output_text}],
    }
    for turn in (message_of(first).model_dump(), written, {**written, "id": "msg_1"}):
        response = client.responses.create(
            model=MODEL,
            input=cast("ResponseInputParam", [*INPUT, turn, second]),
            max_output_tokens=30,
        )
        assert response.output_text == getattr(expected, "content", None)
    system = {"role": "system", "content": "You point at things."}
    texts = {
        client.responses.create(
            model=MODEL, input=cast("ResponseInputParam", before), instructions=instructions
        ).output_text
        for before, instructions in (
            ([system, *INPUT], None),
            ([{**system, "role": "developer"}, *INPUT], None),
            (INPUT, "You point at things."),
        )
    }
    assert len(texts) == 1
    text_alone = client.responses.create(model=MODEL, input="hello", max_output_tokens=3)
    assert text_alone.output_text


def test_streamed_events(client: openai.OpenAI) -> None:
    whole = client.responses.create(
        model=MODEL, input=INPUT, max_output_tokens=30, extra_body=GROUNDING
    )
    stream = client.responses.create(
        model=MODEL, input=INPUT, max_output_tokens=30, extra_body=GROUNDING, stream=True
    )
    events = list(stream)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    types = [event.type for event in events]
    assert types[:4] == [
        "response.created", "response.in_progress", "response.output_item.added",
        "response.content_part.added",
    ]  # fmt: skip
    assert types[-4:] == [
        "response.output_text.done", "response.content_part.done", "response.output_item.done",
        "response.incomplete",
    ]  # fmt: skip
    assert set(types[4:-4]) == {"response.output_text.delta"}
    text, phrases = "", []
    for event in events:
        if event.type == "response.output_text.delta":
            text += event.delta
            for phrase in (event.model_extra or {}).get("grounding", []):
                assert text[phrase["start"] : phrase["end"]] == phrase["text"]
                phrases.append(phrase)
    assert text == whole.output_text
    last = events[-1]
    assert last.type == "response.incomplete"
    expected = (message_of(whole).model_extra or {})["grounding"]
    assert [phrase["index"] for phrase in phrases] == list(range(len(phrases)))
    assert sorted(phrase["start"] for phrase in phrases) == [phrase["start"] for phrase in expected]
    assert [p["start"] for p in (message_of(last.response).model_extra or {})["grounding"]] == [
        p["start"] for p in expected
    ]


def test_helper_reads_a_stream_that_ends_by_itself(
    client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "flmm.serve.workers.chat_job.find_stop_string", lambda text, _: 5 if len(text) > 5 else None
    )
    with client.responses.stream(model=MODEL, input=INPUT, extra_body=GROUNDING) as stream:
        response = stream.get_final_response()
    message = response.output[0]
    assert message.type == "message"
    assert response.status == message.status == "completed"
    assert len(response.output_text) == 5
    assert (message.model_extra or {})["grounding"]


def test_failure_within_a_stream_is_told(
    http_client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr("flmm.serve.workers.chat_job.find_stop_string", fail)
    body = {"model": MODEL, "input": INPUT, "stream": True}
    text = http_client.post("/v1/responses", json=body).text
    assert "event: response.failed" in text
    assert "a defect" not in text


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "web_search"}], "tool_choice": "auto", "parallel_tool_calls": True},
        {"store": True, "metadata": {"a": "b"}, "truncation": "auto", "max_tool_calls": 3},
        {"text": {"format": {"type": "text"}, "verbosity": "medium"}, "background": False},
        {"reasoning": {"effort": None, "summary": "auto"}, "include": ["reasoning.content"]},
        dict.fromkeys(("previous_response_id", "prompt", "conversation", "tools", "new_field")),
    ],
)
def test_fields_that_cannot_change_the_answer(
    http_client: httpx.Client, fields: Mapping[str, object]
) -> None:
    body = {"model": MODEL, "input": INPUT, "max_output_tokens": 5}
    expected = http_client.post("/v1/responses", json=body).json()["output"][0]["content"]
    response = http_client.post("/v1/responses", json={**body, **fields})
    assert response.status_code == 200, response.text
    assert response.json()["output"][0]["content"] == expected


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"previous_response_id": "resp_1"}, "nothing is kept"),
        ({"conversation": "conv_1"}, "nothing is kept"),
        ({"background": True}, "nothing is kept"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "store to false"),
        ({"input": [{"type": "function_call_output", "output": "5"}]}, "calls no tools"),
        ({"input": [{"type": "reasoning", "summary": []}]}, "type 'reasoning'"),
        ({"tool_choice": "required"}, "calls no tools"),
        ({"text": {"format": {"type": "json_schema"}}}, "cannot be held to JSON"),
        ({"reasoning": {"effort": "high"}}, "effort 'high'"),
        ({"include": ["message.output_text.logprobs"]}, "log probabilities"),
    ],
)
def test_what_the_server_cannot_do_is_refused(
    http_client: httpx.Client, fields: Mapping[str, object], words: str
) -> None:
    body = {"model": MODEL, "input": INPUT, **fields}
    response = http_client.post("/v1/responses", json=body)
    assert error_of(response) == (400, "unsupported_value")
    assert words in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"model": "gpt"}, "model_not_found", "model"),
        ({"max_tokens": 5}, "unknown_field", "max_tokens"),
        ({"input": []}, "invalid_value", "input"),
        ({"input": [{"role": "assistant", "content": "hi"}]}, "invalid_value", "input"),
        ({"input": [{"role": "user", "content": " "}]}, "invalid_value", "input[0].content"),
        ({"input": [{"role": "system", "content": CONTENT}]}, "invalid_value",
         "input[0].content[1]"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file"}]}]},
            "invalid_value", "input[0].content[0]",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "a"}]}]},
            "invalid_value", "input[0].content[0].image_url",
        ),
        ({"grounding": {"colour": None}}, "unknown_field", "grounding.colour"),
    ],
)  # fmt: skip
def test_refused_requests(
    http_client: httpx.Client, fields: Mapping[str, object], code: str, param: str
) -> None:
    response = http_client.post("/v1/responses", json={"model": MODEL, "input": INPUT, **fields})
    assert error_of(response)[1] == code, response.text
    assert response.json()["error"]["param"] == param
