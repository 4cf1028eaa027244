"""openai: chat completions and their stream helper."""

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
system = {"role": "system", "content": SYSTEM}
question = {
    "role": "user",
    "content": [
        {"type": "text", "text": QUESTION},
        {"type": "image_url", "image_url": {"url": DATA_URL}},
    ],
}


def ask(*messages, **options):
    completion = client.chat.completions.create(model=MODEL, messages=messages, **options)
    return completion.choices[0].message


def text():
    return ask({"role": "user", "content": "Hello!"}).content


def picture():
    return ask(system, question).content


def stream():
    chunks = client.chat.completions.create(
        model=MODEL,
        messages=[system, question],
        stream=True,
        stream_options={"include_usage": True},
    )
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def history():
    with client.chat.completions.stream(
        model=MODEL, messages=[question], extra_body={"grounding": {}}
    ) as events:
        first = events.get_final_completion().choices[0].message
    second = {"role": "user", "content": SECOND_QUESTION}
    return ask(question, first.model_dump(), second).content


def grounding():
    whole = ask(question, extra_body={"grounding": {}}).grounding
    with client.chat.completions.stream(
        model=MODEL, messages=[question], extra_body={"grounding": {}}
    ) as events:
        streamed = events.get_final_completion().choices[0].message.grounding
    assert [phrase["text"] for phrase in streamed] == [phrase["text"] for phrase in whole]
    return [phrase["text"] for phrase in whole]


run_checks(globals())
