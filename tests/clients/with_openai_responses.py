"""openai: responses, whole and streamed."""

import openai
from client_checks import (
    BASE_URL,
    DATA_URL,
    KEY,
    MODEL,
    QUESTION,
    SECOND_QUESTION,
    SYSTEM,
    run_checks,
)

client = openai.OpenAI(base_url=BASE_URL, api_key=KEY)
question = {
    "role": "user",
    "content": [
        {"type": "input_text", "text": QUESTION},
        {"type": "input_image", "image_url": DATA_URL},
    ],
}


def text():
    return client.responses.create(model=MODEL, input="Hello!").output_text


def picture():
    return client.responses.create(
        model=MODEL, instructions=SYSTEM, input=[question], store=False
    ).output_text


def stream():
    with client.responses.stream(model=MODEL, input=[question]) as events:
        deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
        assert "".join(deltas) == events.get_final_response().output_text
    return "".join(deltas)


def history():
    first = client.responses.create(
        model=MODEL, input=[question], extra_body={"grounding": {}}
    ).output
    second = {"role": "user", "content": SECOND_QUESTION}
    return client.responses.create(model=MODEL, input=[question, *first, second]).output_text


def grounding():
    options = {"model": MODEL, "input": [question], "extra_body": {"grounding": {}}}
    whole = client.responses.create(**options).output[0].grounding
    with client.responses.stream(**options) as events:
        streamed = events.get_final_response().output[0].grounding
    assert streamed == whole
    return [phrase["text"] for phrase in whole]


run_checks(globals())
