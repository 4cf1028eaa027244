"""The server and its page with an LMM alone: what is different from a head's."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
from browsing import launch_chromium, visiting
from openai.types.chat import ChatCompletionUserMessageParam
from serving import data_url, decode_mask, encode_picture, error_of, noise, run_server

from flmm.grounding.grounder import Grounder
from flmm.lmm.families.llava import LlavaAdapter
from flmm.segmenters.sam import SamSegmenter
from flmm.serve.settings import ServerSettings

MODEL = "training-free"
QUESTION = "What is in the picture?"


@pytest.fixture(scope="module")
def grounder() -> Grounder:
    return Grounder(LlavaAdapter.build_tiny(), segmenter=SamSegmenter.build_tiny(), lmm="tiny")


@pytest.fixture(scope="module")
def address(grounder: Grounder) -> Iterator[str]:
    with run_server(grounder, ServerSettings(port=0)) as address:
        yield address


def test_streamed_masks_are_final(address: str, grounder: Grounder) -> None:
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0)
    text = grounder.chat(noise(), QUESTION, max_new_tokens=20).text
    phrases = [text[:4], text[-4:]]
    picture = data_url(encode_picture(noise()))
    message: ChatCompletionUserMessageParam = {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": picture}},
            {"type": "text", "text": QUESTION},
        ],
    }
    stream = client.chat.completions.create(
        model=MODEL,
        messages=[message],
        max_tokens=20,
        stream=True,
        extra_body={"grounding": {"phrases": phrases}},
    )
    deltas = [chunk.choices[0].delta for chunk in stream]
    assert "".join(delta.content or "" for delta in deltas) == text
    streamed = [phrase for delta in deltas for phrase in getattr(delta, "grounding", None) or ()]
    expected = grounder.chat(noise(), QUESTION, phrases, max_new_tokens=20)
    assert [phrase["start"] for phrase in streamed] == [0, len(text) - 4]
    for phrase, same in zip(streamed, expected.phrases, strict=True):
        assert (decode_mask(phrase["mask"]) == same.mask).all()


def test_phrases_that_are_whole_answers_of_concurrent_chats(
    address: str, grounder: Grounder
) -> None:
    pictures = [noise(seed=seed) for seed in range(4)]
    texts = [grounder.chat(picture, QUESTION, max_new_tokens=8).text for picture in pictures]

    def ask(index: int) -> dict[str, Any]:
        body = {
            "image": data_url(encode_picture(pictures[index])),
            "question": QUESTION,
            "phrases": [texts[index]],
            "max_tokens": 8,
        }
        answer: dict[str, Any] = httpx.post(f"{address}/v1/ground", json=body, timeout=60).json()
        return answer

    with ThreadPoolExecutor(len(pictures)) as pool:
        answers = list(pool.map(ask, range(len(pictures))))
    for answer, picture, text in zip(answers, pictures, texts, strict=True):
        assert answer["text"] == text
        expected = grounder.chat(picture, QUESTION, [text], max_new_tokens=8)
        (phrase,) = answer["phrases"]
        assert (decode_mask(phrase["mask"]) == expected.phrases[0].mask).all()


def test_methods(address: str) -> None:
    body = {"image": data_url(encode_picture(noise())), "phrases": ["cat"]}
    answers = [
        httpx.post(f"{address}/v1/segment", json={**body, **options}, timeout=60).json()
        for options in ({}, {"method": "training-free"}, {"method": "kmeans"}, {"refine": False})
    ]
    masks = [answer["phrases"][0]["mask"]["counts"] for answer in answers]
    assert masks[0] == masks[1]
    assert len(set(masks)) == 3
    refused = httpx.post(f"{address}/v1/segment", json={**body, "method": "head"}, timeout=60)
    assert error_of(refused)[0] == 400
    assert "makes masks by 'training-free'" in refused.json()["error"]["message"]


def test_page(address: str) -> None:
    with launch_chromium() as browser, visiting(browser, address) as visit:
        assert visit.page.locator("#model").text_content() == "tiny, training-free"
        visit.choose_bundled()
        visit.page.get_by_role("radio", name="Find").check()
        visit.page.get_by_label("Phrase to find").fill("the cat")
        visit.page.keyboard.press("Enter")
        visit.wait_for_turn(0)
        visit.choose_view("Compare")
        panels = visit.page.locator("#comparison figure")
        names = panels.locator("strong").all_text_contents()
        assert names == ["K-means", "Attention", "Prompted"]
        for index in range(3):
            panels.nth(index).locator(".layer").wait_for(state="attached")
        assert visit.errors == []
