"""openai-agents, over both of OpenAI's interfaces."""

import asyncio

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
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
from openai import AsyncOpenAI

set_tracing_disabled(True)
question = {
    "role": "user",
    "content": [
        {"type": "input_text", "text": QUESTION},
        {"type": "input_image", "image_url": DATA_URL, "detail": "auto"},
    ],
}


@function_tool
def add(first: int, second: int) -> int:
    """Add two numbers."""
    return first + second


def create_agent(kind, **settings):
    client = AsyncOpenAI(base_url=BASE_URL, api_key=KEY)
    return Agent(
        name="seer", instructions=SYSTEM, tools=[add], model=kind(MODEL, client),
        model_settings=ModelSettings(**settings),
    )  # fmt: skip


def run_both(work):
    """Return what the coroutine function returns, which is the same over both interfaces."""
    kinds = (OpenAIChatCompletionsModel, OpenAIResponsesModel)
    first, second = (asyncio.run(work(create_agent(kind))) for kind in kinds)
    assert first == second, (first, second)
    return first


def text():
    async def ask(agent):
        return (await Runner.run(agent, "Hello!")).final_output

    return run_both(ask)


def picture():
    async def ask(agent):
        return (await Runner.run(agent, [question])).final_output

    return run_both(ask)


def stream():
    async def ask(agent):
        result = Runner.run_streamed(agent, [question])
        deltas = [
            event.data.delta
            async for event in result.stream_events()
            if event.type == "raw_response_event"
            and event.data.type == "response.output_text.delta"
        ]
        return "".join(deltas)

    return run_both(ask)


def history():
    async def ask(agent):
        first = await Runner.run(agent, [question])
        turns = [*first.to_input_list(), {"role": "user", "content": SECOND_QUESTION}]
        return (await Runner.run(agent, turns)).final_output

    return run_both(ask)


def grounding():
    agent = create_agent(OpenAIResponsesModel, extra_body={"grounding": {}})

    async def ask():
        result = await Runner.run(agent, [question])
        return result.raw_responses[0].output[0].grounding

    return [phrase["text"] for phrase in asyncio.run(ask())]


run_checks(globals())
