"""A real server on a free port, in a thread of the test's process, and requests to it."""

import base64
import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import httpx
import numpy as np
from mask_shapes import fill_polygons
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco
from tiny_grounding import tiny_head

from flmm.grounding.grounder import Grounder
from flmm.lmm.families.llava import LlavaAdapter
from flmm.serve.server import create_server, listen
from flmm.serve.settings import Limits, ServerSettings

MODEL = "tiny"
QUESTION = "What is in the picture?"
KEY = "correct horse"
LIMITS = Limits(
    body_bytes=200_000, body_seconds=1.0, pixels=100_000, pictures=2, prompt_tokens=1500,
    answer_tokens=40, phrases=3, json_depth=8, json_values=2000,
)  # fmt: skip
LIMITED = ServerSettings(port=0, api_key=KEY, limits=LIMITS)


@contextmanager
def run_server(grounder: Grounder, settings: ServerSettings) -> Iterator[str]:
    """Run a server; yield its address."""
    with listen(settings) as server_socket:
        server = create_server(grounder, settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [server_socket]})
        thread.start()
        address = f"http://127.0.0.1:{server_socket.getsockname()[1]}"
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


def encode_picture(picture: Image.Image, kind: str = "PNG") -> bytes:
    content = io.BytesIO()
    picture.save(content, kind)
    return content.getvalue()


def data_url(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def error_of(response: httpx.Response) -> tuple[int, str]:
    """Return the status and code of an error response, which must have OpenAI's fields."""
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert "\n" not in error["message"]
    return response.status_code, error["code"]


def tiny_grounder() -> Grounder:
    return Grounder(LlavaAdapter.build_tiny(), tiny_head(), model=MODEL)


def decode_mask(mask: dict[str, object]) -> NDArray[np.bool_]:
    """Decode a mask in any of the formats."""
    height, width = cast(list[int], mask["size"])
    if "counts" in mask:
        return np.asarray(coco.decode(mask), dtype=bool)
    if "png" in mask:
        content = base64.b64decode(cast(str, mask["png"]).partition(",")[2])
        return np.asarray(Image.open(io.BytesIO(content))).astype(bool)
    return fill_polygons(cast(list[list[int]], mask["polygons"]), (height, width))


def create_client(address: str) -> httpx.Client:
    """Return a client that sends the API key."""
    return httpx.Client(
        base_url=address, headers={"authorization": f"Bearer {KEY}"}, timeout=30, trust_env=False
    )


def ground_body(**changes: object) -> dict[str, object]:
    """Return a body for /v1/ground that is answered fast."""
    return {
        "image": data_url(encode_picture(noise())),
        "question": "what?",
        "max_tokens": 2,
        "refine": False,
        **changes,
    }


@contextmanager
def run_limited_server(grounder: Grounder) -> Iterator[httpx.Client]:
    """Run a server with narrow limits; yield its client; check that it still answers at the end."""
    with run_server(grounder, LIMITED) as address, create_client(address) as client:
        yield client
        # Whatever was sent, no slot is held, and the model still answers.
        assert client.get("/healthz").json()["served"] == 0
        assert client.post("/v1/ground", json=ground_body()).status_code == 200
