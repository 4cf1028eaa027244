"""pydantic-ai."""

import asyncio
from pathlib import Path

import httpx2
from client_checks import (
    BASE_URL,
    KEY,
    MODEL,
    PICTURE,
    QUESTION,
    SECOND_QUESTION,
    SYSTEM,
    run_checks,
)
from openai import AsyncOpenAI
from pydantic_ai import Agent, BinaryContent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

model = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=BASE_URL, api_key=KEY))
agent = Agent(model, instructions=SYSTEM)
question = [QUESTION, BinaryContent(Path(PICTURE).read_bytes(), media_type="image/png")]


@agent.tool_plain
def add(first: int, second: int) -> int:
    """Add two numbers."""
    return first + second


def text():
    return agent.run_sync("Hello!").output


def picture():
    return agent.run_sync(question).output


def stream():
    async def collect():
        async with agent.run_stream(question) as result:
            return "".join([part async for part in result.stream_text(delta=True)])

    return asyncio.run(collect())


def history():
    first = agent.run_sync(question)
    return agent.run_sync(SECOND_QUESTION, message_history=first.all_messages()).output


def grounding():
    bodies = []

    async def keep(response):
        await response.aread()
        bodies.append(response.json())

    async def ask():
        # Messages have no room for the field: a hook of the HTTP client sees it.
        http_client = httpx2.AsyncClient(event_hooks={"response": [keep]})
        client = AsyncOpenAI(base_url=BASE_URL, api_key=KEY, http_client=http_client)
        grounded = Agent(OpenAIChatModel(MODEL, provider=OpenAIProvider(openai_client=client)))
        await grounded.run(question, model_settings={"extra_body": {"grounding": {}}})

    asyncio.run(ask())
    return [phrase["text"] for phrase in bodies[0]["choices"][0]["message"]["grounding"]]


run_checks(globals())
