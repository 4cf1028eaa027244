"""gradio's load_chat, driven by gradio's own client."""

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio
from client_checks import (
    BASE_URL,
    KEY,
    MODEL,
    PICTURE,
    QUESTION,
    SECOND_QUESTION,
    run_checks,
)
from gradio_client import Client, handle_file


def open_chat(**options):
    """Return a client of a chat that is just opened."""
    chat = gradio.load_chat(
        BASE_URL, MODEL, token=KEY, file_types="image", api_name="chat", **options
    )
    chat.launch(prevent_thread_lock=True, quiet=True)
    return Client(chat.local_url, verbose=False)


def say(client, text, files=()):
    message = {"text": text, "files": [handle_file(file) for file in files]}
    answer = client.predict(message, api_name="/chat")
    return answer if isinstance(answer, str) else "".join(part["text"] for part in answer)


def text():
    return say(open_chat(streaming=False), "Hello!")


def picture():
    return say(open_chat(streaming=False), QUESTION, [PICTURE])


def stream():
    return say(open_chat(streaming=True), QUESTION, [PICTURE])


def history():
    # Its client hands histories on in a form that load_chat does not read, unlike its page.
    ask = gradio.load_chat(BASE_URL, MODEL, token=KEY, file_types="image", streaming=False).fn
    answer = ask({"text": QUESTION, "files": [PICTURE]}, [])
    turns = [
        {"role": "user", "content": [{"type": "file", "file": {"path": PICTURE}}]},
        {"role": "user", "content": [{"type": "text", "text": QUESTION}]},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]
    return ask({"text": SECOND_QUESTION, "files": []}, turns)


run_checks(globals())
