"""haystack-ai: OpenAIChatGenerator."""

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
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage, ImageContent
from haystack.utils import Secret


def create_generator(**options):
    return OpenAIChatGenerator(
        api_key=Secret.from_token(KEY), model=MODEL, api_base_url=BASE_URL, **options
    )


generator = create_generator()
system = ChatMessage.from_system(SYSTEM)
question = ChatMessage.from_user(content_parts=[QUESTION, ImageContent.from_file_path(PICTURE)])


def ask(*messages):
    return generator.run(messages=list(messages))["replies"][0]


def text():
    return ask(ChatMessage.from_user("Hello!")).text


def picture():
    return ask(system, question).text


def stream():
    pieces = []
    streaming = create_generator(streaming_callback=lambda chunk: pieces.append(chunk.content))
    streaming.run(messages=[question])
    return "".join(pieces)


def history():
    return ask(question, ask(question), ChatMessage.from_user(SECOND_QUESTION)).text


def grounding():
    # Replies drop fields that they do not know: the client below keeps them.
    completion = generator.client.chat.completions.create(
        model=MODEL,
        messages=[question.to_openai_dict_format()],
        extra_body={"grounding": {}},
    )
    return [phrase["text"] for phrase in completion.choices[0].message.grounding]


run_checks(globals())
