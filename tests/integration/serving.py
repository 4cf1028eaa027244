"""A real server on a free port, in a thread of the test's process."""

import base64
import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import numpy as np
from PIL import Image

from flmm.grounder import Grounder
from flmm.serve.run import http_server, listen
from flmm.serve.settings import ServerSettings


@contextmanager
def running(grounder: Grounder, settings: ServerSettings) -> Iterator[str]:
    """Gives the server's address."""
    with listen(settings) as opened:
        server = http_server(grounder, settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
        thread.start()
        address = f"http://127.0.0.1:{opened.getsockname()[1]}"
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield address
        finally:
            server.should_exit = True
            thread.join()


def noise(width: int = 60, height: int = 40, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def encoded(picture: Image.Image, kind: str = "PNG") -> bytes:
    content = io.BytesIO()
    picture.save(content, kind)
    return content.getvalue()


def data_url(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def error_of(response: httpx.Response) -> tuple[int, str]:
    """The status and code of a refusal, whose shape is OpenAI's."""
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert "\n" not in error["message"]
    return response.status_code, error["code"]
