"""langchain-openai: ChatOpenAI."""

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
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI

model = ChatOpenAI(model=MODEL, base_url=BASE_URL, api_key=KEY)
question = HumanMessage(
    [
        {"type": "text", "text": QUESTION},
        {"type": "image_url", "image_url": {"url": DATA_URL}},
    ]
)


def text():
    return model.invoke("Hello!").text


def picture():
    return model.invoke([SystemMessage(SYSTEM), question]).text


def stream():
    return "".join(chunk.text for chunk in model.stream([question]))


def history():
    first = model.invoke([question])
    return model.invoke([question, first, HumanMessage(SECOND_QUESTION)]).text


def grounding():
    grounded = ChatOpenAI(model=MODEL, base_url=BASE_URL, api_key=KEY, extra_body={"grounding": {}})
    # ChatOpenAI drops fields that it does not know: the client below it keeps them.
    completion = grounded.root_client.chat.completions.create(
        **grounded._get_request_payload([question])
    )
    return [phrase["text"] for phrase in completion.choices[0].message.grounding]


run_checks(globals())
