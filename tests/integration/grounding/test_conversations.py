"""Talks of several messages and pictures, system prompts and sampling in ``Grounder``."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_grounding import tiny_head

import flmm
from flmm.answers.answer import Answer
from flmm.errors import InputError
from flmm.grounding.conversation import ChatMessage
from flmm.grounding.grounder import Grounder
from flmm.grounding.streaming import AnswerEvent, PhraseEvent, TextEvent
from flmm.lmm.families.llava import LlavaAdapter
from flmm.lmm.families.paligemma import PaliGemmaAdapter
from flmm.lmm.message import Message

QUESTION = "What is in the picture?"
PICTURES = Path(flmm.__file__).parent / "assets" / "pictures"
HISTORY: list[ChatMessage] = [
    {"role": "user", "content": "Is it a dog?"},
    {"role": "assistant", "content": "No, a cat."},
]


def picture(width: int = 48, height: int = 48, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.fixture(scope="module")
def grounder() -> Grounder:
    return Grounder(LlavaAdapter.build_tiny(), tiny_head(), model="tiny-head")


@pytest.fixture(scope="module")
def embedded() -> Grounder:
    return Grounder.from_pretrained()


def generate(grounder: Grounder, pictures: Sequence[Image.Image], *history: Message) -> str:
    """What the LMM alone says after these messages."""
    prompt = grounder.adapter.build_prompt(pictures, QUESTION, history=history)
    return grounder.adapter.generate(prompt, 12).text


def test_history_and_system_prompt_are_what_the_lmm_reads(grounder: Grounder) -> None:
    image = picture()
    first = Message("user", "Is it a dog?", (image,))
    said = Message("assistant", "No, a cat.")
    answer = grounder.chat(image, QUESTION, history=HISTORY, max_new_tokens=12)
    assert answer.text == generate(grounder, [], first, said)
    answer = grounder.chat(image, QUESTION, history=HISTORY, system="Be brief.", max_new_tokens=12)
    assert answer.text == generate(grounder, [], Message("system", "Be brief."), first, said)
    alone = grounder.chat(image, QUESTION, system="Be brief.", max_new_tokens=12)
    assert alone.text == generate(grounder, [image], Message("system", "Be brief."))
    assert len({answer.text, alone.text, generate(grounder, [image])}) == 3
    assert all(phrase.mask.shape == (48, 48) for phrase in answer.phrases)


def test_pictures_may_stand_in_the_history(grounder: Grounder, tmp_path: Path) -> None:
    first, second = picture(), picture(60, 40, seed=1)
    first.save(tmp_path / "first.png")
    parts = [
        {"type": "image", "path": str(tmp_path / "first.png")},
        {"type": "text", "text": "Is it a dog?"},
    ]
    history = [{"role": "user", "content": parts}, HISTORY[1]]
    earlier = Message("user", "Is it a dog?", (first,)), Message("assistant", "No, a cat.")
    answer = grounder.chat(None, QUESTION, history=history, max_new_tokens=12)
    assert answer.text == generate(grounder, [], *earlier)
    answer = grounder.chat(second, QUESTION, history=history, max_new_tokens=12)
    assert answer.text == generate(grounder, [second], *earlier)
    assert [each.size for each in answer.pictures] == [(48, 48), (60, 40)]


def test_the_same_seed_samples_the_same_answer(grounder: Grounder) -> None:
    def sample(seed: int | None, temperature: float = 5.0) -> str:
        return grounder.chat(
            picture(), QUESTION, temperature=temperature, seed=seed, max_new_tokens=12
        ).text

    assert sample(1) == sample(1) != sample(2)
    assert sample(cast(int, np.int64(1))) == sample(1)
    assert sample(1, temperature=0) == generate(grounder, [picture()])
    torch.manual_seed(0)
    expected = sample(None)
    torch.manual_seed(0)
    assert sample(None) != expected, "no seed, and yet the same answer twice"


def test_stream_and_together_take_the_same_options(grounder: Grounder) -> None:
    image, other = picture(), picture(seed=1)
    expected = grounder.chat(
        image, QUESTION, history=HISTORY, temperature=5.0, seed=3, max_new_tokens=12
    )
    events = list(
        grounder.stream(
            image, QUESTION, history=HISTORY, temperature=5.0, seed=3, max_new_tokens=12
        )
    )
    assert isinstance(events[-1], AnswerEvent)
    assert events[-1].answer.text == expected.text
    assert "".join(event.text for event in events if isinstance(event, TextEvent)) == expected.text
    together = grounder.chat_together(
        [(image, QUESTION, HISTORY), (other, QUESTION)],
        temperature=5.0, seed=3, max_new_tokens=12,
    )  # fmt: skip
    alone = grounder.chat(other, QUESTION, temperature=5.0, seed=3, max_new_tokens=12)
    assert [answer.text for answer in together] == [expected.text, alone.text]


def is_about(answer: Answer) -> dict[str, int]:
    return {phrase.text: phrase.picture for phrase in answer.phrases if phrase.area}


def test_each_phrase_is_grounded_in_its_own_picture(embedded: Grounder) -> None:
    demo, sea = PICTURES / "demo.png", PICTURES / "sea.png"
    alone = embedded.chat(sea, QUESTION)
    answer = embedded.chat([demo, sea], "What is in the pictures?")
    found = is_about(answer)
    assert found["a pineapple"] == 0, "the demo picture has the pineapple"
    assert found["a frog"] == 1, "the sea picture has the frog"
    assert found["water"] == 1
    for phrase in answer.phrases:
        assert phrase.mask.shape == answer.pictures[phrase.picture].size[::-1]
        assert answer.text[phrase.start : phrase.end] == phrase.text
    (frog,) = (phrase for phrase in answer.phrases if phrase.text == "a frog")
    (expected,) = (phrase for phrase in alone.phrases if phrase.text == "a frog")
    overlap = (frog.mask & expected.mask).sum() / (frog.mask | expected.mask).sum()
    assert overlap > 0.9
    events = list(embedded.stream([demo, sea], "What is in the pictures?"))
    streamed = [event.phrase for event in events if isinstance(event, PhraseEvent)]
    assert {phrase.text: phrase.picture for phrase in streamed if phrase.area} == found
    thought = embedded.think(demo, "Where is the pizza?")
    assert all(phrase.picture == 0 for phrase in thought.answer.phrases), "none is of the crop"


def test_answers_about_several_pictures_are_drawn_and_exported(
    grounder: Grounder, tmp_path: Path
) -> None:
    pictures = [picture(), picture(60, 40, seed=1), picture(30, 90, seed=2)]
    answer = grounder.chat(pictures, QUESTION, max_new_tokens=20)
    numbers = [phrase.picture for phrase in answer.phrases]
    assert [phrase["picture"] for phrase in answer.to_dict()["phrases"]] == numbers
    answer.save(tmp_path / "overlay.png")
    coco = answer.to_coco(["a.png", "b.png", "c.png"])
    assert [(image["file_name"], image["width"]) for image in coco["images"]] == [
        ("a.png", 48), ("b.png", 60), ("c.png", 30)
    ]  # fmt: skip
    assert [entry["image_id"] for entry in coco["annotations"]] == [each + 1 for each in numbers]
    for number, image in enumerate(pictures):
        shown, masks = answer.to_annotated_image(number)
        assert shown.size == image.size
        assert len(masks) == numbers.count(number)
    with pytest.raises(InputError, match="2 file names for 3 pictures; give one for each"):
        answer.to_coco(["a.png", "b.png"])
    with pytest.raises(InputError, match="picture is 3; give one of 0 to 2"):
        answer.to_annotated_image(3)


def test_phrases_of_many_pictures_are_segmented_together(grounder: Grounder) -> None:
    tasks = [(picture(), ["a cat", "grass"]), (picture(60, 40, seed=1), ["the dog on the left"])]
    together = grounder.segment_together(tasks)
    for (image, phrases), answer in zip(tasks, together, strict=True):
        alone = grounder.segment(image, phrases)
        assert answer.text == alone.text
        for one, other in zip(answer.phrases, alone.phrases, strict=True):
            assert np.array_equal(one.mask, other.mask)
    assert grounder.segment_together([]) == []


@pytest.mark.parametrize(
    ("message", "part"),
    [
        ("a cat", r"history\[0\] is 'a cat'; give"),
        ({"role": "user"}, r"history\[0\] is .*; give"),
        ({"role": "tool", "content": "x"}, "has the role 'tool'; give one of system, user"),
        ({"role": "user", "content": 3}, "has content of type 'int'; give a text"),
        ({"role": "user", "content": " "}, r"the text of history\[0\] is empty; write one"),
        ({"role": "user", "content": [{"type": "video"}]}, "has the part .*video"),
        ({"role": "user", "content": [{"type": "image", "path": "none.png"}]}, "no picture"),
        ({"role": "assistant", "content": [{"type": "image", "image": picture()}]}, "assistant's"),
        ({"role": "system", "content": [{"type": "image", "image": picture()}]}, "system's"),
        ({"role": "assistant", "content": "\ud800"}, "not valid Unicode"),
    ],
)
def test_messages_in_another_format_are_refused(
    grounder: Grounder, message: object, part: str
) -> None:
    with pytest.raises(InputError, match=part):
        grounder.chat(picture(), QUESTION, history=[message])  # type: ignore[list-item]


def test_conversations_that_cannot_be_held_are_refused(grounder: Grounder) -> None:
    with pytest.raises(InputError, match="no picture; give one"):
        grounder.chat(None, QUESTION)
    with pytest.raises(InputError, match="the list of pictures is empty"):
        grounder.chat([], QUESTION)
    system: ChatMessage = {"role": "system", "content": "Be brief."}
    with pytest.raises(InputError, match="the history has a system message; keep one"):
        grounder.chat(picture(), QUESTION, system="Be long.", history=[system])
    with pytest.raises(InputError, match="temperature is -1; give 0"):
        grounder.chat(picture(), QUESTION, temperature=-1)
    with pytest.raises(InputError, match=f"seed is {2**64}; give a whole number"):
        grounder.chat(picture(), QUESTION, seed=2**64)
    for name, value in (("seed", 1.5), ("temperature", "1"), ("max_new_tokens", 2.5)):
        with pytest.raises(InputError, match=f"{name} is {value!r}; give"):
            grounder.chat(picture(), QUESTION, **{name: value})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"questions\[1\] has 1 parts; give"):
        grounder.chat_together([(picture(), QUESTION), (picture(),)])  # type: ignore[list-item]
    one_question = Grounder(PaliGemmaAdapter.build_tiny())
    with pytest.raises(InputError, match="answers one question at a time; leave out the history"):
        one_question.chat(picture(), QUESTION, history=HISTORY)
