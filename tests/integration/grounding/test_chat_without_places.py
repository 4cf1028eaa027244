"""LMMs whose image tokens have no place in the picture chat as they would alone, without masks."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from command import run_in_process
from contract_helpers import conversation_history, noise_picture
from PIL import Image
from serving import data_url, encode_picture, run_server
from tiny_grounding import tiny_head
from tiny_type_settings import CHATTING_TYPES
from tiny_types import tiny_type_adapter

from flmm.errors import InputError
from flmm.grounding.grounder import Grounder
from flmm.grounding.streaming import AnswerEvent, TextEvent
from flmm.lmm.generic.adapter import GenericAdapter
from flmm.segmenters.sam import SamSegmenter
from flmm.serve.settings import ServerSettings

QUESTION = "what is it?"
REASON = "its vision tower shows no single place for each image token"
NO_MASKS = rf"its words cannot be grounded in pictures: {REASON}; chat with it without phrases"


@pytest.fixture(scope="module")
def adapter() -> GenericAdapter:
    return tiny_type_adapter("idefics2").build_tiny()


@pytest.fixture(scope="module")
def grounder(adapter: GenericAdapter) -> Grounder:
    return Grounder(adapter, segmenter=SamSegmenter.build_tiny())


@pytest.fixture(scope="module")
def folder(adapter: GenericAdapter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("idefics2")
    adapter.model.save_pretrained(folder)
    adapter.processor.save_pretrained(folder)
    settings = folder / "tokenizer_config.json"
    tokens = {"image_token": "<|image_pad|>", "image_boundary_token": "<|vision_start|>"}
    content = json.loads(settings.read_text()) | {"extra_special_tokens": tokens}
    settings.write_text(json.dumps(content))
    return folder


def answer_alone(adapter: GenericAdapter, picture: Image.Image) -> str:
    """Return transformers' own answer to the prompt of the model's own processor."""
    process: Callable[..., dict[str, object]] = adapter.processor
    text = f"USER: {adapter.placeholder}\n{QUESTION} ASSISTANT:"
    inputs = process(images=[picture], text=[text], return_tensors="pt")
    generated = adapter.model.generate(**inputs, max_new_tokens=6, do_sample=False)  # type: ignore[operator]
    return adapter.decode(generated[0, inputs["input_ids"].shape[1] :])  # type: ignore[attr-defined]


@pytest.mark.parametrize("model_type", CHATTING_TYPES)
def test_a_notice_tells_why_and_the_answer_is_the_lmms_own(
    model_type: str, caplog: pytest.LogCaptureFixture
) -> None:
    own = tiny_type_adapter(model_type).build_tiny()
    with caplog.at_level(logging.WARNING, "flmm"):
        answer = Grounder(own).chat(noise_picture(), QUESTION, max_new_tokens=6)
    (notice,) = [record.getMessage() for record in caplog.records]
    assert notice.endswith(f"its words cannot be grounded in pictures: {REASON}")
    assert "\n" not in notice
    assert answer.text == answer_alone(own, noise_picture())
    assert answer.text
    assert answer.phrases == ()


def test_streamed_and_batched_answers(grounder: Grounder) -> None:
    expected = grounder.chat(noise_picture(), QUESTION, max_new_tokens=6)
    *texts, last = grounder.stream(noise_picture(), QUESTION, max_new_tokens=6)
    assert isinstance(last, AnswerEvent)
    assert "".join(event.text for event in texts if isinstance(event, TextEvent)) == expected.text
    assert (last.answer.text, last.answer.phrases) == (expected.text, ())
    pictures = [noise_picture(), noise_picture(90, 40)]
    together = grounder.chat_together([(p, QUESTION) for p in pictures], max_new_tokens=6)
    assert together[0].text == expected.text
    assert [answer.phrases for answer in together] == [(), ()]
    assert "picture embedding" not in last.answer.timings


def test_a_conversation_with_several_pictures(adapter: GenericAdapter) -> None:
    prompt = adapter.build_prompt(noise_picture(), QUESTION, history=conversation_history())
    assert prompt.picture_views == ((), ())
    assert (prompt.inputs["input_ids"] == adapter.image_token_id).sum() == 16
    assert adapter.generate(prompt, 3).text


@pytest.mark.parametrize(
    "use",
    [
        lambda grounder: grounder.segment(noise_picture(), ["the cat"]),
        lambda grounder: grounder.ground(noise_picture(), "A cat on the grass."),
        lambda grounder: grounder.attend(noise_picture(), QUESTION),
        lambda grounder: grounder.attend(noise_picture(), QUESTION, answer="a cat"),
        lambda grounder: grounder.think(noise_picture(), QUESTION),
        lambda grounder: grounder.think(noise_picture(), QUESTION, locate="question"),
        lambda grounder: grounder.chat(noise_picture(), QUESTION, ["cat"]),
        lambda grounder: list(grounder.stream(noise_picture(), QUESTION, ["cat"])),
        lambda grounder: Grounder(grounder.adapter, tiny_head()),
    ],
)
def test_masks_and_maps_are_refused(grounder: Grounder, use: Callable[[Grounder], object]) -> None:
    with pytest.raises(InputError, match=NO_MASKS) as caught:
        use(grounder)
    assert "\n" not in str(caught.value)


def test_commands(
    folder: Path,
    grounder: Grounder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    picture = tmp_path / "picture.png"
    noise_picture().save(picture)
    options = ["--lmm", str(folder), "--sam", "none", "--device", "cpu", "--json"]
    chat = ["chat", str(picture), QUESTION, "--max-new-tokens", "6"]
    ended = run_in_process([*chat, *options], capsys)
    assert ended.code == 0
    (notice,) = [record.getMessage() for record in caplog.records if record.name == "flmm.lmm"]
    assert REASON in notice
    expected = grounder.chat(noise_picture(), QUESTION, max_new_tokens=6)
    content = json.loads(ended.out)
    assert (content["text"], content["phrases"]) == (expected.text, [])
    refused = run_in_process(["segment", str(picture), "the cat", *options], capsys)
    assert refused.code == 2
    assert REASON in refused.err.splitlines()[-1]


def test_batch(grounder: Grounder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
               capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.setattr("flmm.grounding.loading.load_lmm", lambda *_: grounder.adapter)
    noise_picture().save(tmp_path / "picture.png")
    tasks = tmp_path / "list.jsonl"
    tasks.write_text(
        f'{{"image": "picture.png", "question": "{QUESTION}"}}\n'
        '{"image": "picture.png", "phrases": ["the cat"]}\n'
    )
    results = tmp_path / "results.jsonl"
    options = ["--lmm", "tiny", "--sam", "none", "--out", str(results), "--max-new-tokens", "6"]
    assert run_in_process(["batch", str(tasks), *options], capsys).code == 0
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    answered, refused = sorted(lines, key=lambda line: "error" in line)
    expected = grounder.chat(noise_picture(), QUESTION, max_new_tokens=6)
    assert (answered["answer"]["text"], answered["answer"]["phrases"]) == (expected.text, [])
    assert REASON in refused["error"]


def test_server(grounder: Grounder) -> None:
    picture = data_url(encode_picture(noise_picture()))
    content = [
        {"type": "image_url", "image_url": {"url": picture}},
        {"type": "text", "text": QUESTION},
    ]
    body = {"model": "training-free", "messages": [{"role": "user", "content": content}]}
    expected = grounder.chat(noise_picture(), QUESTION, max_new_tokens=6)
    with (
        run_server(grounder, ServerSettings(port=0)) as address,
        httpx.Client(base_url=address, timeout=60, trust_env=False) as client,
    ):
        options: list[dict[str, object]] = [{}, {"grounding": {}}]
        for grounding in options:
            reply = client.post("/v1/chat/completions", json={**body, **grounding, "max_tokens": 6})
            assert reply.status_code == 200
            assert reply.json()["choices"][0]["message"]["content"] == expected.text
        for path, request in (
            ("/v1/chat/completions", {**body, "grounding": {"phrases": ["cat"]}}),
            ("/v1/segment", {"image": picture, "phrases": ["the cat"]}),
            ("/v1/ground", {"image": picture, "text": "A cat."}),
            ("/v1/attend", {"image": picture, "question": QUESTION}),
        ):
            reply = client.post(path, json=request)
            assert reply.status_code == 400
            assert REASON in reply.json()["error"]["message"]
