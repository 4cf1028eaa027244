"""flmm over HTTP, as its clients use it: OpenAI's own, and plain requests."""

import base64
import io
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, cast

import httpx
import numpy as np
import openai
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco
from serving import data_url, encoded, error_of, noise, running
from tiny_grounding import tiny_head

from flmm.answer import run_lengths
from flmm.grounder import Grounder
from flmm.lmm.llava import LlavaAdapter
from flmm.masks.kmeans import coarse_mask
from flmm.serve.masks import outlines
from flmm.serve.settings import ServerSettings

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionMessageParam

MODEL = "tiny"
QUESTION = "What is in the picture?"
PICTURE = noise()
URL = data_url(encoded(PICTURE))


def tiny_grounder() -> Grounder:
    return Grounder(LlavaAdapter.tiny(), tiny_head(), model=MODEL)


@pytest.fixture(scope="module")
def grounder() -> Grounder:
    """The same as the server's, which nobody else may use."""
    return tiny_grounder()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running(tiny_grounder(), ServerSettings(port=0)) as address:
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0)


def asked(text: str = QUESTION, urls: Sequence[str] = (URL,)) -> "ChatCompletionMessageParam":
    pictures = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    message = {"role": "user", "content": [*pictures, {"type": "text", "text": text}]}
    return cast("ChatCompletionMessageParam", message)


def decoded(mask: dict[str, object]) -> NDArray[np.bool_]:
    """A mask in any of the formats."""
    height, width = cast(list[int], mask["size"])
    if "counts" in mask:
        return np.asarray(coco.decode(mask), dtype=bool)
    if "png" in mask:
        content = base64.b64decode(cast(str, mask["png"]).partition(",")[2])
        return np.asarray(Image.open(io.BytesIO(content))).astype(bool)
    return filled(cast(list[list[int]], mask["polygons"]), (height, width))


def filled(rings: list[list[int]], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Slow and plain: a pixel is inside when a ray to its left meets an odd number of edges."""
    inside = np.zeros(size, dtype=bool)
    for ring in rings:
        points = list(zip(ring[::2], ring[1::2], strict=True))
        for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]], strict=True):
            assert (x0 == x1) != (y0 == y1)
            if x0 == x1:
                inside[min(y0, y1) : max(y0, y1), x0:] ^= True
    return inside


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError, match="no model 'other'"):
        client.models.retrieve("other")


def test_chat_without_grounding(client: openai.OpenAI, grounder: Grounder) -> None:
    expected = grounder.chat(PICTURE, QUESTION, max_new_tokens=12)
    answer = client.chat.completions.create(model=MODEL, messages=[asked()], max_tokens=12)
    choice = answer.choices[0]
    assert choice.message.content == expected.text
    assert choice.finish_reason == "length"
    assert "grounding" not in (choice.message.model_extra or {})
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == 12 + answer.usage.prompt_tokens


@pytest.mark.parametrize("mask_format", ["rle", "polygon", "png"])
def test_chat_with_grounding(client: openai.OpenAI, grounder: Grounder, mask_format: str) -> None:
    expected = grounder.chat(PICTURE, QUESTION, max_new_tokens=30)
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[asked()],
        max_completion_tokens=30,
        extra_body={"grounding": {"mask_format": mask_format}},
    )
    message = answer.choices[0].message
    assert message.content == expected.text
    found = (message.model_extra or {})["grounding"]
    assert len(found) == len(expected.phrases) > 1
    for phrase, wanted in zip(found, expected.phrases, strict=True):
        assert {**phrase, "mask": None} == {**wanted.to_dict(), "mask": None, "picture": 0}
        assert np.array_equal(decoded(phrase["mask"]), wanted.mask)


def test_streamed_phrases_come_when_their_last_word_is_said(
    client: openai.OpenAI, grounder: Grounder
) -> None:
    expected = grounder.chat(PICTURE, QUESTION, max_new_tokens=30)
    text, early, phrases, reasons = "", 0, [], []
    chunks = client.chat.completions.create(
        model=MODEL,
        messages=[asked()],
        max_tokens=30,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"grounding": {}},
    )
    usage = None
    for chunk in chunks:
        usage = chunk.usage or usage
        if not chunk.choices:
            continue
        choice = chunk.choices[0]
        reasons.append(choice.finish_reason)
        text += choice.delta.content or ""
        for phrase in (choice.delta.model_extra or {}).get("grounding", []):
            assert text[phrase["start"] : phrase["end"]] == phrase["text"]
            phrases.append(phrase)
            early += text != expected.text
    assert text == expected.text
    assert reasons[-1] == "length"
    assert not any(reasons[:-1])
    assert usage is not None
    assert usage.completion_tokens == 30
    assert early
    assert sorted((p["start"], p["end"]) for p in phrases) == [
        (p.start, p.end) for p in expected.phrases
    ]
    by_start = {phrase["start"]: phrase for phrase in phrases}
    for wanted in expected.phrases:
        differing = decoded(by_start[wanted.start]["mask"]) != wanted.mask
        assert differing.mean() < 0.01


def test_given_phrases_and_the_number_of_phrases(client: openai.OpenAI, grounder: Grounder) -> None:
    said = grounder.chat(PICTURE, QUESTION, max_new_tokens=30).phrases
    wishes: list[tuple[dict[str, object], list[str]]] = [
        ({"phrases": [said[1].text, "a zeppelin"], "refine": False}, [said[1].text]),
        ({"max_phrases": 2}, [phrase.text for phrase in said[:2]]),
    ]
    for wish, texts in wishes:
        for stream in (False, True):
            body = {
                "model": MODEL, "messages": [asked()], "max_tokens": 30, "grounding": wish,
                "stream": stream,
            }  # fmt: skip
            response = httpx.post(f"{client.base_url}chat/completions", json=body, timeout=60)
            assert response.status_code == 200, response.text
            assert response.text.count('"text":') == len(texts)
            assert all(json.dumps(text, ensure_ascii=False) in response.text for text in texts)


def test_stop_texts_end_the_answer(client: openai.OpenAI, grounder: Grounder) -> None:
    whole = grounder.chat(PICTURE, QUESTION, max_new_tokens=30).text
    stop = whole[9:12]
    wanted = whole[: whole.index(stop)]
    answer = client.chat.completions.create(
        model=MODEL, messages=[asked()], max_tokens=30, stop=["never said", stop],
        extra_body={"grounding": {}},
    )  # fmt: skip
    choice = answer.choices[0]
    assert (choice.message.content, choice.finish_reason) == (wanted, "stop")
    for phrase in (choice.message.model_extra or {})["grounding"]:
        assert wanted[phrase["start"] : phrase["end"]] == phrase["text"]
    streamed = client.chat.completions.create(
        model=MODEL, messages=[asked()], max_tokens=30, stop=stop, stream=True
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in streamed]
    assert "".join(pieces) == wanted


def test_a_seed_draws_the_same_answer(client: openai.OpenAI) -> None:
    def drawn(seed: int) -> str | None:
        answer = client.chat.completions.create(
            model=MODEL, messages=[asked()], max_tokens=8, temperature=1.5, seed=seed
        )
        return answer.choices[0].message.content

    assert drawn(1) == drawn(1) != drawn(2)


def test_several_turns_and_pictures(client: openai.OpenAI) -> None:
    other = data_url(encoded(noise(30, 50, seed=1), "JPEG"), "image/jpeg")
    messages: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": "You point at things."},
        asked(urls=(URL, other)),
    ]
    first = client.chat.completions.create(
        model=MODEL, messages=messages, max_tokens=20, extra_body={"grounding": {}}
    )
    # What came is sent back as it is, as people do.
    messages.append(cast("ChatCompletionMessageParam", first.choices[0].message))
    messages.append({"role": "user", "content": "and where?"})
    second = client.chat.completions.create(
        model=MODEL, messages=messages, max_tokens=20, extra_body={"grounding": {}}
    )
    phrases = (second.choices[0].message.model_extra or {})["grounding"]
    assert phrases
    sizes = {phrase["picture"]: phrase["mask"]["size"] for phrase in phrases}
    assert sizes.items() <= {0: [40, 60], 1: [50, 30]}.items()


def test_conversation_without_a_picture(client: openai.OpenAI) -> None:
    hello: ChatCompletionMessageParam = {"role": "user", "content": "hello"}
    wish: dict[str, object] = {"grounding": {}}
    whole = client.chat.completions.create(
        model=MODEL, messages=[hello], max_tokens=5, extra_body=wish
    )
    assert (whole.choices[0].message.model_extra or {})["grounding"] == []
    chunks = client.chat.completions.create(
        model=MODEL, messages=[hello], max_tokens=5, extra_body=wish, stream=True
    )
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "length"


def test_ground(address: str, grounder: Grounder) -> None:
    expected = grounder.chat(PICTURE, QUESTION, max_new_tokens=30, refine=False).to_dict()
    fields = {"question": QUESTION, "max_tokens": 30, "refine": False}
    as_json = httpx.post(f"{address}/v1/ground", json={**fields, "image": URL}, timeout=60)
    as_form = httpx.post(
        f"{address}/v1/ground",
        data={key: str(value) for key, value in fields.items()},
        files={"image": ("scene.png", encoded(PICTURE), "image/png")},
        timeout=60,
    )
    for response in (as_json, as_form):
        content = response.json()
        assert response.status_code == 200, content
        assert content["timings"].keys() >= {"picture", "queue", "generate", "masks"}
        for phrase in content["phrases"]:
            assert phrase.pop("picture") == 0
        assert {**content, "timings": {}} == {**expected, "timings": {}}


def test_segment(address: str, grounder: Grounder) -> None:
    expected = grounder.segment(PICTURE, ["the cat", "grass"])
    as_json = httpx.post(
        f"{address}/v1/segment", json={"image": URL, "phrases": [" the cat", "grass"]}, timeout=60
    )
    as_form = httpx.post(
        f"{address}/v1/segment",
        data={"phrases": ["the cat", "grass"]},
        # As curl sends a file whose name says nothing.
        files={"image": ("scene", encoded(PICTURE), "application/octet-stream")},
        timeout=60,
    )
    for response in (as_json, as_form):
        content = response.json()
        assert content["text"] == "the cat, grass", content
        for phrase, wanted in zip(content["phrases"], expected.phrases, strict=True):
            assert phrase["mask"] == wanted.to_dict()["mask"]


def test_kmeans_in_place_of_the_head(
    address: str, client: openai.OpenAI, grounder: Grounder
) -> None:
    square = noise(48, 48)
    (word,) = grounder.attend(square, "Where is cat?", ["Cat"], answer="Cat").words
    inside = coarse_mask(torch.from_numpy(word.maps).flatten(0, 1)).numpy()
    sent = {"image": data_url(encoded(square)), "phrases": ["cat"], "method": "kmeans"}
    (phrase,) = httpx.post(f"{address}/v1/segment", json=sent, timeout=60).json()["phrases"]
    mask = decoded(phrase["mask"])
    # In the middle of an image token the mask is what its cluster says.
    (rows, columns), (height, width) = inside.shape, mask.shape
    down = (np.arange(rows) * 2 + 1) * height // (2 * rows)
    across = (np.arange(columns) * 2 + 1) * width // (2 * columns)
    assert np.array_equal(mask[np.ix_(down, across)], inside)
    assert 0.5 < phrase["score"] <= 1
    answers = [
        client.chat.completions.create(
            model=MODEL, messages=[asked()], max_tokens=30,
            extra_body={"grounding": {"method": method}},
        ).choices[0].message
        for method in ("head", "kmeans")
    ]  # fmt: skip
    head, kmeans = ((answer.model_extra or {})["grounding"] for answer in answers)
    assert answers[0].content == answers[1].content
    assert [one["start"] for one in head] == [one["start"] for one in kmeans]
    assert [one["mask"] for one in head] != [one["mask"] for one in kmeans]
    wrong = httpx.post(f"{address}/v1/segment", json={**sent, "method": "sam"}, timeout=60)
    assert error_of(wrong) == (400, "invalid_value")


def test_attend(address: str, grounder: Grounder) -> None:
    expected = grounder.attend(PICTURE, QUESTION, ["cat"], answer="the cat on the grass")
    asked = {
        "image": URL, "question": QUESTION, "words": ["cat"], "answer": "the cat on the grass",
        "layer": 1, "each": True,
    }  # fmt: skip
    content = httpx.post(f"{address}/v1/attend", json=asked, timeout=60).json()
    assert (content["layers"], content["heads"]) == expected.words[0].maps.shape[:2]
    (word,) = content["words"]
    assert (word["text"], word["start"], word["end"]) == ("cat", 4, 7)
    shown = pixels(word["map"]["png"]) * (word["map"]["most"] / 255)
    assert np.allclose(shown, expected.words[0].map(1), atol=word["map"]["most"] / 255)
    maps = expected.words[0].maps
    each = pixels(word["each"]["png"]) * (word["each"]["most"] / 255)
    tile = each[: maps.shape[2], -maps.shape[3] :]
    assert np.allclose(tile, maps[0, -1], atol=word["each"]["most"] / 255)


def pixels(url: str) -> NDArray[np.uint8]:
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


def test_responses_can_do_no_harm_in_a_browser(address: str) -> None:
    for path in ("/healthz", "/v1/models", "/nothing"):
        headers = httpx.get(address + path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers
        assert "server" not in headers


@pytest.mark.parametrize("seed", range(6))
def test_outlines_are_the_mask(seed: int) -> None:
    # Noise has holes, and pixels that touch by a corner alone.
    mask = np.random.default_rng(seed).random((9, 13)) < (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)[seed]
    assert np.array_equal(filled(outlines(mask), (9, 13)), mask)
    assert run_lengths(filled(outlines(mask), (9, 13))) == run_lengths(mask)


def test_outlines_of_nothing_and_of_a_block() -> None:
    mask = np.zeros((5, 6), dtype=bool)
    assert outlines(mask) == []
    mask[1:4, 2:5] = True
    (ring,) = outlines(mask)
    assert sorted(zip(ring[::2], ring[1::2], strict=True)) == [(2, 1), (2, 4), (5, 1), (5, 4)]
