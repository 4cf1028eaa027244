"""The plain routes, health, metrics and OpenAPI description."""

import base64
import io
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from serving import (
    MODEL,
    QUESTION,
    data_url,
    decode_mask,
    encode_picture,
    error_of,
    noise,
    run_server,
    tiny_grounder,
)

from flmm.grounding.grounder import Grounder
from flmm.masks.kmeans import compute_kmeans_mask
from flmm.serve.settings import ServerSettings

PICTURE = noise()
URL = data_url(encode_picture(PICTURE))


@pytest.fixture(scope="module")
def grounder() -> Grounder:
    """A grounder equal to the server's, which nobody else may use."""
    return tiny_grounder()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with run_server(tiny_grounder(), ServerSettings(port=0)) as address:
        yield address


def test_ground(address: str, grounder: Grounder) -> None:
    expected = grounder.chat(PICTURE, QUESTION, max_new_tokens=30, refine=False).to_dict()
    fields = {"question": QUESTION, "max_tokens": 30, "refine": False}
    as_json = httpx.post(f"{address}/v1/ground", json={**fields, "image": URL}, timeout=60)
    as_form = httpx.post(
        f"{address}/v1/ground",
        data={key: str(value) for key, value in fields.items()},
        files={"image": ("scene.png", encode_picture(PICTURE), "image/png")},
        timeout=60,
    )
    for response in (as_json, as_form):
        content = response.json()
        assert response.status_code == 200, content
        assert content["timings"].keys() >= {"picture", "queue", "generate", "masks"}
        for phrase in content["phrases"]:
            assert phrase["picture"] == 0
        assert {**content, "timings": {}} == {**expected, "timings": {}}


def test_ground_of_a_given_text(address: str, grounder: Grounder) -> None:
    text = " The dog is left of a cat, the dog sleeps on grass."
    phrases = ["the dog", "grass"]
    expected = grounder.ground(PICTURE, text, phrases).to_dict()
    fields = {"text": text, "phrases": phrases}
    as_json = httpx.post(f"{address}/v1/ground", json={**fields, "image": URL}, timeout=60)
    as_form = httpx.post(
        f"{address}/v1/ground", data=fields, files={"image": encode_picture(PICTURE)}, timeout=60
    )
    for response in (as_json, as_form):
        content = response.json()
        assert response.status_code == 200, content
        assert content["timings"].keys() >= {"picture", "queue", "read", "masks"}
        assert "generate" not in content["timings"]
        for phrase in content["phrases"]:
            assert phrase["picture"] == 0
        assert {**content, "timings": {}} == {**expected, "timings": {}}


def test_ground_of_a_given_text_is_checked(address: str, grounder: Grounder) -> None:
    def ask(**fields: object) -> httpx.Response:
        return httpx.post(f"{address}/v1/ground", json={"image": URL, **fields}, timeout=60)

    text = "A cat, a dog, a cow and a pig."
    own = grounder.ground(PICTURE, text, question="Which animals?")
    content = ask(text=text, question="Which animals?", max_phrases=1).json()
    assert [phrase["text"] for phrase in content["phrases"]] == [own.phrases[0].text]
    absent = ask(text=text, phrases=["a bird"])
    assert error_of(absent)[0] == 400
    assert "'a bird' is not in the text" in absent.text
    assert error_of(ask(text=" ")) == error_of(ask(question=" ")) != (200, "")
    assert error_of(ask(text=text, question=" "))[0] == 400
    assert "unknown field 'stream'" in ask(text=text, stream=True).text
    nothing = ask()
    assert error_of(nothing) == (400, "invalid_value")
    assert "give a question, or a text to ground" in nothing.text


def test_segment(address: str, grounder: Grounder) -> None:
    expected = grounder.segment(PICTURE, ["the cat", "grass"])
    as_json = httpx.post(
        f"{address}/v1/segment", json={"image": URL, "phrases": [" the cat", "grass"]}, timeout=60
    )
    as_form = httpx.post(
        f"{address}/v1/segment",
        data={"phrases": ["the cat", "grass"]},
        # As curl sends a file without a known extension.
        files={"image": ("scene", encode_picture(PICTURE), "application/octet-stream")},
        timeout=60,
    )
    for response in (as_json, as_form):
        content = response.json()
        assert content["text"] == "the cat, grass", content
        for phrase, expected_phrase in zip(content["phrases"], expected.phrases, strict=True):
            assert phrase["mask"] == expected_phrase.to_dict()["mask"]


def test_kmeans_in_place_of_the_head(address: str, grounder: Grounder) -> None:
    square = noise(48, 48)
    (word,) = grounder.attend(square, "Where is cat?", ["Cat"], answer="Cat").words
    inside = compute_kmeans_mask(torch.from_numpy(word.maps).flatten(0, 1)).numpy()
    sent = {"image": data_url(encode_picture(square)), "phrases": ["cat"], "method": "kmeans"}
    (phrase,) = httpx.post(f"{address}/v1/segment", json=sent, timeout=60).json()["phrases"]
    mask = decode_mask(phrase["mask"])
    # At the centre of an image token the mask equals its cluster.
    (rows, columns), (height, width) = inside.shape, mask.shape
    down = (np.arange(rows) * 2 + 1) * height // (2 * rows)
    across = (np.arange(columns) * 2 + 1) * width // (2 * columns)
    assert np.array_equal(mask[np.ix_(down, across)], inside)
    assert 0.5 < phrase["score"] <= 1
    question = {"image": URL, "question": QUESTION, "max_tokens": 30}
    answers = [
        httpx.post(f"{address}/v1/ground", json={**question, "method": method}, timeout=60).json()
        for method in ("head", "kmeans")
    ]
    head, kmeans = (answer["phrases"] for answer in answers)
    assert answers[0]["text"] == answers[1]["text"]
    assert [phrase["start"] for phrase in head] == [phrase["start"] for phrase in kmeans]
    assert [phrase["mask"] for phrase in head] != [phrase["mask"] for phrase in kmeans]
    wrong = httpx.post(f"{address}/v1/segment", json={**sent, "method": "sam"}, timeout=60)
    assert error_of(wrong) == (400, "invalid_value")


def test_attend(address: str, grounder: Grounder) -> None:
    expected = grounder.attend(PICTURE, QUESTION, ["cat"], answer="the cat on the grass")
    body = {
        "image": URL, "question": QUESTION, "words": ["cat"], "answer": "the cat on the grass",
        "layer": 1, "each": True,
    }  # fmt: skip
    content = httpx.post(f"{address}/v1/attend", json=body, timeout=60).json()
    assert (content["layers"], content["heads"]) == expected.words[0].maps.shape[:2]
    (word,) = content["words"]
    assert (word["text"], word["start"], word["end"]) == ("cat", 4, 7)
    shown = decode_grey_png(word["map"]["png"]) * (word["map"]["most"] / 255)
    assert np.allclose(shown, expected.words[0].map(1), atol=word["map"]["most"] / 255)
    maps = expected.words[0].maps
    most = word["each"]["most"][0][-1]
    tile = decode_grey_png(word["each"]["png"])[: maps.shape[2], -maps.shape[3] :] * (most / 255)
    assert tile.max() == pytest.approx(maps[0, -1].max())
    assert np.allclose(tile, maps[0, -1], atol=most / 255)
    assert np.allclose(word["each"]["on_picture"], maps.sum((2, 3)), atol=1e-4)


def decode_grey_png(url: str) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as opened:
        assert opened.mode == "L"
        return np.asarray(opened)


def test_health_metrics_and_description(address: str) -> None:
    health = httpx.get(f"{address}/healthz").json()
    assert (health["status"], health["model"], health["served"]) == ("ok", MODEL, 0)
    metrics = httpx.get(f"{address}/metrics").text
    assert 'flmm_responses_total{path="/healthz",status="200"}' in metrics
    description = httpx.get(f"{address}/openapi.json").json()
    routes = {path for path in description["paths"] if path.startswith("/v1")}
    assert routes >= {"/v1/chat/completions", "/v1/ground", "/v1/segment", "/v1/attend"}
    for path in ("/v1/ground", "/v1/segment", "/v1/attend", "/v1/chat/completions"):
        body = description["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        name = body["schema"]["$ref"].rpartition("/")[2]
        assert name in description["components"]["schemas"]
        changes = {"model": MODEL, "max_tokens": 2}
        example = {key: changes.get(key, value) for key, value in body["example"].items()}
        assert httpx.post(address + path, json=example, timeout=60).status_code == 200


def test_responses_have_security_headers(address: str) -> None:
    for path in ("/healthz", "/v1/models", "/nothing"):
        headers = httpx.get(address + path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers
        assert "server" not in headers
