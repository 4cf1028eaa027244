"""Answers of an LMM whose tokenizer behaves as Llama 2's, said and put in its mouth."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from command import run_in_process
from PIL import Image
from serving import MODEL, data_url, encode_picture, run_server
from small_tokenizers import composing, llama_like
from tiny_grounding import save_lmm, save_tiny_head, tiny_head
from torch import Tensor, nn
from transformers.tokenization_utils_tokenizers import PreTrainedTokenizerFast

from flmm.answers.answer import Answer
from flmm.errors import InputError
from flmm.grounding.grounder import Grounder
from flmm.grounding.streaming import AnswerEvent, TextEvent
from flmm.lmm.families.llava import LlavaAdapter
from flmm.serve.settings import ServerSettings

QUESTION = "what?"


def make_grounder(tokenizer: PreTrainedTokenizerFast) -> Grounder:
    adapter = LlavaAdapter.build_tiny()
    adapter.tokenizer = tokenizer
    assert len(tokenizer) <= adapter.model.config.text_config.vocab_size
    return Grounder(adapter, tiny_head(), model=MODEL)


@pytest.fixture
def grounder() -> Grounder:
    return make_grounder(llama_like())


@pytest.fixture
def picture() -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    return Image.fromarray(values)


@contextmanager
def saying(grounder: Grounder, picture: Image.Image, answer: str) -> Iterator[int]:
    """Let the LMM say the answer, in the tokens in which it reads it; yields their number."""
    adapter = grounder.adapter
    opening, whole = (
        adapter.build_prompt(picture, QUESTION, given).inputs["input_ids"][0].tolist()
        for given in (None, answer)
    )
    assert whole[: len(opening)] == opening
    script = [*whole[len(opening) :], adapter.tokenizer.eos_token_id]
    steps = iter(script)

    def choose(_: nn.Module, __: tuple[Tensor, ...], logits: Tensor) -> Tensor:
        chosen = torch.full_like(logits, -100.0)
        chosen[..., next(steps, script[-1])] = 0
        return chosen

    hook = adapter.model.get_submodule("lm_head").register_forward_hook(choose)
    try:
        yield len(script) - 1
    finally:
        hook.remove()


def assert_same_masks(said: Answer, given: Answer) -> None:
    assert len(said.phrases) == len(given.phrases) > 0
    for one, two in zip(said.phrases, given.phrases, strict=True):
        assert len(one.tokens) == len(two.tokens) > 0
        assert one.score == pytest.approx(two.score, abs=1e-4)
        assert (one.mask != two.mask).mean() < 0.001


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("3 dogs, a cat", ["3 dogs", "a cat"]),
        ("漢 cat", ["漢", "cat"]),
        ("𠮷𠮷 cat", ["𠮷𠮷", "cat"]),
        ("cat 3", ["cat", "3"]),
        ("-3 cats", ["-3 cats"]),
    ],
)
def test_said_and_given_answers_are_grounded_from_the_same_rows(
    grounder: Grounder, picture: Image.Image, text: str, phrases: list[str]
) -> None:
    with saying(grounder, picture, text):
        said = grounder.chat(picture, QUESTION, phrases)
    assert said.text == text
    given = grounder.ground(picture, text, phrases, question=QUESTION)
    assert_same_masks(said, given)


def test_decomposed_text_of_a_composing_tokenizer_is_grounded_as_it_is_said(
    picture: Image.Image,
) -> None:
    grounder = make_grounder(composing())
    decomposed = "a cafe\u0301 cat"
    with saying(grounder, picture, decomposed):
        said = grounder.chat(picture, QUESTION, ["cafe\u0301", "cat"])
    assert said.text == "a caf\u00e9 cat"
    assert [phrase.text for phrase in said.phrases] == ["caf\u00e9", "cat"]
    given = grounder.ground(picture, decomposed, ["caf\u00e9", "cat"], question=QUESTION)
    assert given.text == decomposed
    assert [phrase.text for phrase in given.phrases] == ["cafe\u0301", "cat"]
    assert_same_masks(said, given)


TEXT = "a é𠮷漢字 cat 🐈‍⬛"


def test_streamed_text_is_the_beginning_of_the_answer_wherever_it_is_cut(
    grounder: Grounder, picture: Image.Image
) -> None:
    with saying(grounder, picture, TEXT) as num_tokens:
        pass
    for limit in range(1, num_tokens + 1):
        with saying(grounder, picture, TEXT):
            events = list(grounder.stream(picture, QUESTION, max_new_tokens=limit, refine=False))
        assert isinstance(events[-1], AnswerEvent)
        told = ""
        for event in events:
            if isinstance(event, TextEvent):
                assert event.start == len(told)
                told += event.text
        assert told == events[-1].answer.text
    assert told == TEXT


def test_server_streams_what_stays(grounder: Grounder, picture: Image.Image) -> None:
    with saying(grounder, picture, TEXT) as num_tokens:
        pass
    content = [
        {"type": "image_url", "image_url": {"url": data_url(encode_picture(picture))}},
        {"type": "text", "text": QUESTION},
    ]
    with run_server(grounder, ServerSettings(port=0)) as address:
        for limit in range(1, num_tokens + 1, 3):
            messages = [{"role": "user", "content": content}]
            request = {"model": MODEL, "messages": messages, "max_tokens": limit}
            with saying(grounder, picture, TEXT):
                whole = httpx.post(f"{address}/v1/chat/completions", json=request, timeout=60)
            with saying(grounder, picture, TEXT):
                streamed = httpx.post(
                    f"{address}/v1/chat/completions", json={**request, "stream": True}, timeout=60
                )
            lines = [line.removeprefix("data: ") for line in streamed.text.splitlines() if line]
            chunks = [json.loads(line) for line in lines if line != "[DONE]"]
            deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
            told = "".join(delta.get("content") or "" for delta in deltas)
            assert told == whole.json()["choices"][0]["message"]["content"]


REFUSED = "'</s>', which controls the LMM; take it out"


def test_special_token_is_refused_in_every_method(grounder: Grounder, picture: Image.Image) -> None:
    text = "a </s> cat"
    for call in (
        lambda: grounder.chat(picture, text),
        lambda: grounder.chat_together([(picture, text)]),
        lambda: list(grounder.stream(picture, text)),
        lambda: grounder.ground(picture, text),
        lambda: grounder.ground(picture, "a cat", question=text),
        lambda: grounder.segment(picture, ["cat", text]),
        lambda: grounder.attend(picture, text),
        lambda: grounder.attend(picture, QUESTION, answer=text),
        lambda: grounder.think(picture, text),
    ):
        with pytest.raises(InputError, match=REFUSED) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_special_token_is_refused_by_commands_and_server(
    tmp_path: Path, picture: Image.Image, capsys: pytest.CaptureFixture[str]
) -> None:
    lmm = save_lmm(tmp_path / "lmm")
    head = save_tiny_head(tmp_path / "head", str(lmm))
    picture.save(tmp_path / "picture.png")
    for words in (["ground"], ["segment"], ["chat"]):
        arguments = [*words, str(tmp_path / "picture.png"), "a </s> cat", "--model", str(head)]
        ended = run_in_process(arguments, capsys)
        assert ended.code == 2
        assert REFUSED in ended.err
    image = data_url(encode_picture(picture))
    with run_server(make_grounder(llama_like()), ServerSettings(port=0)) as address:
        for route, fields in (
            ("ground", {"text": "a </s> cat"}),
            ("ground", {"question": "a </s> cat"}),
            ("segment", {"phrases": ["a </s> cat"]}),
        ):
            response = httpx.post(
                f"{address}/v1/{route}", json={"image": image, **fields}, timeout=60
            )
            assert response.status_code == 400, response.text
            assert REFUSED in response.json()["error"]["message"]
