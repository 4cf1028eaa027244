"""An OpenAI-compatible server with replies of one's own, in a thread of the test's process."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Reply = str | tuple[int, str]
"""The model's text; or a status, and an error's message, or a whole page of HTML or JSON."""


@dataclass
class FakeJudge:
    """A running server, and what it was sent."""

    url: str
    bodies: list[dict[str, object]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)

    @property
    def prompts(self) -> list[str]:
        return [body["messages"][0]["content"] for body in self.bodies]  # type: ignore[index]


@contextmanager
def run_fake_judge(answer: Callable[[dict[str, object]], Reply]) -> Iterator[FakeJudge]:
    """Run a server on a free port; ``answer`` gets each request's body."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                judge.bodies.append(body)
                judge.keys.append(self.headers["authorization"])
                reply = answer(body)
            if self.path != "/v1/chat/completions":
                reply = 404, "there is no such page"
            self.send(*(reply if isinstance(reply, tuple) else (200, reply)), body)

        def send(self, status: int, text: str, body: dict[str, object]) -> None:
            content: object = {
                "id": "1", "object": "chat.completion", "created": 1, "model": body["model"],
                "choices": [
                    {
                        "index": 0,
                        "finish_reason": "stop",
                        "message": {"role": "assistant", "content": text},
                    }
                ],
            }  # fmt: skip
            if status != 200:
                param = "temperature" if "temperature" in text else None
                content = {"error": {"message": text, "type": "t", "param": param, "code": "c"}}
            page = text.startswith("<")
            payload = (text if page or text.startswith("{") else json.dumps(content)).encode()
            self.send_response(status)
            self.send_header("content-type", "text/html" if page else "application/json")
            self.send_header("content-length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_: object) -> None:
            """Keep requests off standard error."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        judge = FakeJudge(f"http://127.0.0.1:{server.server_address[1]}/v1")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield judge
        finally:
            server.shutdown()
            thread.join()
