"""litellm."""

import litellm
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

system = {"role": "system", "content": SYSTEM}
question = {
    "role": "user",
    "content": [
        {"type": "text", "text": QUESTION},
        {"type": "image_url", "image_url": {"url": DATA_URL}},
    ],
}


def ask(*messages, **options):
    return litellm.completion(
        model=f"openai/{MODEL}", api_base=BASE_URL, api_key=KEY, messages=list(messages), **options
    )


def text():
    return ask({"role": "user", "content": "Hello!"}).choices[0].message.content


def picture():
    return ask(system, question).choices[0].message.content


def stream():
    return "".join(chunk.choices[0].delta.content or "" for chunk in ask(question, stream=True))


def history():
    first = ask(question, extra_body={"grounding": {}}).choices[0].message
    second = {"role": "user", "content": SECOND_QUESTION}
    answers = {
        ask(question, turn, second).choices[0].message.content
        for turn in (first, first.model_dump())
    }
    (answer,) = answers
    return answer


def grounding():
    message = ask(question, extra_body={"grounding": {}}).choices[0].message
    return [phrase["text"] for phrase in message.provider_specific_fields["grounding"]]


run_checks(globals())
