"""Open WebUI, which is started here: its API, and chats as its page sends them."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

from client_checks import BASE_URL, DATA_URL, KEY, MODEL, QUESTION, SECOND_QUESTION, run_checks

_START_SECONDS = 180
_QUESTION = {
    "role": "user",
    "content": [
        {"type": "text", "text": QUESTION},
        {"type": "image_url", "image_url": {"url": DATA_URL}},
    ],
}
_CHAT_QUESTION = {
    "role": "user",
    "content": QUESTION,
    "files": [{"type": "image", "url": DATA_URL}],
}


class WebUI:
    """A signed-in client of an Open WebUI."""

    def __init__(self, address):
        self._address = address
        self._token = None
        self._token = self.call("/api/v1/auths/signin", {"email": "", "password": ""})["token"]
        self.call("/api/models")

    def call(self, path, body=None):
        headers = {"content-type": "application/json"}
        if self._token is not None:
            headers["authorization"] = f"Bearer {self._token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self._address}{path}", data, headers)
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.loads(response.read())

    def ask(self, *messages):
        """Ask as programs do."""
        body = {"model": MODEL, "messages": messages, "stream": False}
        return self.call("/api/chat/completions", body)["choices"][0]["message"]["content"]

    def ask_in_chat(self, *turns):
        """Ask as the page does: in a stored chat, streamed, with tools, and titles made beside it.

        Each turn is the user's or an answer, in that order, with the fields of Open WebUI.
        """
        ids = [str(uuid.uuid4()) for _ in range(len(turns) + 1)]
        messages = {
            own: {"id": own, "parentId": parent, "childrenIds": [], "model": MODEL, **turn}
            for own, parent, turn in zip(
                ids, [None, *ids], [*turns, {"role": "assistant", "content": ""}], strict=False
            )
        }
        for message in messages.values():
            if message["parentId"] is not None:
                messages[message["parentId"]]["childrenIds"].append(message["id"])
        question_id, answer_id = ids[-2:]
        history = {"messages": messages, "currentId": answer_id}
        chat = {"title": "New Chat", "models": [MODEL], "history": history, "messages": []}
        chat_id = self.call("/api/v1/chats/new", {"chat": chat})["id"]
        self.call(
            "/api/chat/completions",
            {
                "model": MODEL, "messages": turns, "stream": True,
                "params": {"function_calling": "native"}, "features": {}, "variables": {},
                "session_id": str(uuid.uuid4()), "chat_id": chat_id, "id": answer_id,
                "parent_id": question_id, "user_message": messages[question_id],
                "background_tasks": {
                    "title_generation": True, "tags_generation": True,
                    "follow_up_generation": True,
                },
            },
        )  # fmt: skip
        for _ in range(60):
            time.sleep(0.5)
            stored = self.call(f"/api/v1/chats/{chat_id}")["chat"]["history"]["messages"]
            message = stored.get(answer_id, {})
            if message.get("error"):
                raise RuntimeError(str(message["error"]))
            if message.get("done"):
                return message["content"]
        raise TimeoutError("the chat did not end")


@contextlib.contextmanager
def start_web_ui():
    """Run Open WebUI in a new folder; yield a client of it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "DATA_DIR": folder, "OPENAI_API_BASE_URL": BASE_URL, "OPENAI_API_KEY": KEY,
            "WEBUI_AUTH": "False", "WEBUI_SECRET_KEY": "any", "ENABLE_OLLAMA_API": "False",
            "OFFLINE_MODE": "True", "HF_HUB_OFFLINE": "1",
        }  # fmt: skip
        command = [
            str(Path(sys.executable).with_name("open-webui")), "serve",
            "--host", "127.0.0.1", "--port", str(port),
        ]  # fmt: skip
        with (
            Path(folder, "log").open("wb") as log,
            subprocess.Popen(
                command, env={**os.environ, **settings}, cwd=folder, stdout=log, stderr=log
            ) as process,
        ):
            try:
                yield _connect(f"http://127.0.0.1:{port}", process)
            finally:
                process.terminate()


def _connect(address, process):
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            return WebUI(address)
        time.sleep(1)
    raise TimeoutError("Open WebUI did not start")


with start_web_ui() as web_ui:

    def text():
        return web_ui.ask({"role": "user", "content": "Hello!"})

    def picture():
        return web_ui.ask(_QUESTION)

    def stream():
        return web_ui.ask_in_chat(_CHAT_QUESTION)

    def history():
        turn = {"role": "assistant", "content": web_ui.ask(_QUESTION), "done": True}
        return web_ui.ask_in_chat(
            _CHAT_QUESTION, turn, {"role": "user", "content": SECOND_QUESTION}
        )

    run_checks(globals())
