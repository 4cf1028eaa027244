"""Visual chain of thought: what is located, the crop, and the second answer."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_grounding import tiny_head
from torch import nn

from flmm.attention.tracing import trace_texts
from flmm.errors import InputError
from flmm.grounding.chain_of_thought import ThinkOptions, Thought
from flmm.grounding.grounder import Grounder
from flmm.lmm.base import LMMAdapter
from flmm.lmm.families.llava import LlavaAdapter
from flmm.lmm.message import Message
from flmm.lmm.prompt import Prompt

QUESTION = "What is on the grass?"


def picture(width: int = 60, height: int = 40) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.fixture(scope="module")
def grounder() -> Grounder:
    return Grounder(LlavaAdapter.build_tiny(), tiny_head())


@pytest.fixture(scope="module")
def empty_mask_grounder() -> Grounder:
    """A head whose masks are all empty."""
    head = tiny_head()
    head.config = type(head.config)(**{**vars(head.config), "refine": False})
    classifier = head.mask_decoder.classifier
    nn.init.zeros_(classifier.weight)
    assert classifier.bias is not None
    nn.init.constant_(classifier.bias, -5)
    return Grounder(LlavaAdapter.build_tiny(), head)


def think(
    grounder: Grounder, options: ThinkOptions | None = None, question: str = QUESTION
) -> Thought:
    fields = vars(options or ThinkOptions())
    return grounder.think(picture(), question, max_new_tokens=20, **fields)


BuiltPrompts = list[tuple[list[Image.Image], str, Prompt]]


@pytest.fixture
def prompts(grounder: Grounder, monkeypatch: pytest.MonkeyPatch) -> BuiltPrompts:
    """The pictures, question and prompt of each call of ``build_prompt``."""
    built: BuiltPrompts = []
    build_prompt = grounder.adapter.build_prompt

    def spy_prompt(
        pictures: Image.Image | Sequence[Image.Image],
        question: str,
        history: Sequence[Message] = (),
    ) -> Prompt:
        prompt = build_prompt(pictures, question, history=history)
        listed = [pictures] if isinstance(pictures, Image.Image) else list(pictures)
        built.append((listed, question, prompt))
        return prompt

    monkeypatch.setattr(grounder.adapter, "build_prompt", spy_prompt)
    return built


def test_second_prompt_has_the_picture_and_its_crop(
    grounder: Grounder, prompts: BuiltPrompts
) -> None:
    thought = think(grounder)
    (first, second) = prompts
    assert (len(first[2].picture_views), len(second[2].picture_views)) == (1, 2)
    assert (first[1], second[1]) == (QUESTION, QUESTION)
    whole = np.asarray(picture())
    assert np.array_equal(np.asarray(second[0][0]), whole)
    x0, y0, x1, y1 = thought.box
    assert np.array_equal(np.asarray(second[0][1]), whole[y0:y1, x0:x1])
    assert np.array_equal(np.asarray(thought.crop), whole[y0:y1, x0:x1])
    alone = grounder.adapter.generate(second[2], 20)
    assert thought.answer.text == alone.text
    for phrase in thought.answer.phrases:
        assert phrase.mask.shape == (40, 60)
        assert thought.answer.text[phrase.start : phrase.end] == phrase.text


def test_smallest_phrase_of_the_first_answer_is_located(grounder: Grounder) -> None:
    thought = think(grounder)
    expected = grounder.chat(picture(), QUESTION, max_new_tokens=20)
    assert thought.first.text == expected.text
    areas = [phrase.area for phrase in thought.first.phrases if phrase.area]
    assert len(areas) > 1
    assert thought.located is not None
    assert thought.located.area == min(areas)
    x0, y0, x1, y1 = thought.box
    left, top, right, bottom = thought.located.box
    assert x0 <= left < right <= x1 <= 60
    assert y0 <= top < bottom <= y1 <= 40


@torch.no_grad()
def test_phrases_of_the_question_are_located(grounder: Grounder, prompts: BuiltPrompts) -> None:
    thought = think(grounder, ThinkOptions("question"))
    assert thought.first.text == QUESTION
    assert [phrase.text for phrase in thought.first.phrases] == ["the grass"]
    phrase = thought.first.phrases[0]
    assert (phrase.start, phrase.end) == (11, 20)
    prompt = prompts[0][2]
    adapter, head = grounder.adapter, grounder.head
    assert head is not None
    (trace,) = trace_texts(adapter, [prompt], part="question")
    attention = trace.picture_attention.phrase_maps(phrase.tokens)[None]
    states = [trace.hidden_states[:, list(phrase.tokens)]]
    embedding = head.refiner.encode(np.asarray(picture()))
    logits = head(attention, states, trace.geometry, embedding).refined_logits[0]
    assert np.array_equal(phrase.mask, (logits > 0).numpy())
    # Nothing is generated before the second prompt.
    assert set(thought.first.timings) == {
        "picture", "read", "phrases", "picture embedding", "masks",
    }  # fmt: skip
    selected = think(grounder, ThinkOptions("question", phrase_source="selector")).first.phrases
    assert [phrase.text for phrase in selected] == [QUESTION.removesuffix("?")]


def test_referring_expression_of_a_question_is_one_phrase(grounder: Grounder) -> None:
    thought = think(
        grounder, ThinkOptions("question"), "What number is on the cat next to the dog?"
    )
    assert [phrase.text for phrase in thought.first.phrases] == ["the cat next to the dog"]


def test_margin_enlarges_the_box(grounder: Grounder) -> None:
    tight, wide = (think(grounder, ThinkOptions(margin=margin)) for margin in (0.0, 0.5))
    assert tight.located is not None
    x0, y0, x1, y1 = tight.located.box
    for thought, share in ((tight, 0.0), (wide, 0.5)):
        side = round(max(x1 - x0, y1 - y0) * (1 + 2 * share))
        width, height = thought.crop.size
        assert (width, height) == (min(side, 60), min(side, 40))
        assert (thought.box[2] - thought.box[0], thought.box[3] - thought.box[1]) == (width, height)


def test_mask_crop_is_grey_outside_the_mask(grounder: Grounder) -> None:
    thought = think(grounder, ThinkOptions(crop="mask"))
    assert thought.located is not None
    x0, y0, x1, y1 = thought.box
    inside = thought.located.mask[y0:y1, x0:x1]
    pixels = np.asarray(thought.crop)
    assert np.array_equal(pixels[inside], np.asarray(picture())[y0:y1, x0:x1][inside])
    assert (pixels[~inside] == 127).all()
    assert (~inside).any()


def test_random_crop_has_the_size_of_the_box(grounder: Grounder) -> None:
    box_crop = think(grounder, ThinkOptions(margin=0.0))
    boxes = set()
    for seed in range(4):
        thought = think(grounder, ThinkOptions(crop="random", margin=0.0, seed=seed))
        assert thought.crop.size == box_crop.crop.size
        assert thought.located is not None
        x0, y0, x1, y1 = thought.box
        assert 0 <= x0 < x1 <= 60
        assert 0 <= y0 < y1 <= 40
        assert np.array_equal(np.asarray(thought.crop), np.asarray(picture())[y0:y1, x0:x1])
        boxes.add(thought.box)
    assert think(grounder, ThinkOptions(crop="random", margin=0.0, seed=3)).box == thought.box
    assert len(boxes) > 1


def test_first_question_replaces_the_question(grounder: Grounder, prompts: BuiltPrompts) -> None:
    thought = think(grounder, ThinkOptions(first_question="Name the thing."))
    assert [question for _, question, _ in prompts] == ["Name the thing.", QUESTION]
    assert thought.question == QUESTION
    expected = grounder.chat(picture(), "Name the thing.", max_new_tokens=20)
    assert thought.first.text == expected.text


@pytest.mark.parametrize("crop", ["box", "mask", "random"])
def test_whole_picture_where_nothing_is_located(
    empty_mask_grounder: Grounder, crop: str, tmp_path: Path
) -> None:
    grounder = empty_mask_grounder
    thought = grounder.think(picture(), QUESTION, crop=crop, max_new_tokens=20)  # type: ignore[arg-type]
    assert thought.located is None
    assert thought.box == (0, 0, 60, 40)
    assert np.array_equal(np.asarray(thought.crop), np.asarray(picture()))
    assert thought.to_dict()["located"] is None
    thought.save(tmp_path / "thought.png")


def test_json_and_figure(grounder: Grounder, tmp_path: Path) -> None:
    thought = think(grounder)
    content = thought.to_dict()
    assert json.loads(json.dumps(content)) == content
    assert content["first"]["text"] == thought.first.text
    assert content["answer"] == thought.answer.to_dict()
    assert content["box"] == list(thought.box)
    thought.save(tmp_path / "thought.png")
    with Image.open(tmp_path / "thought.png") as figure:
        assert figure.width >= 640
    assert thought._repr_png_().startswith(b"\x89PNG")
    markup = replace(thought, question="<b>where?</b>")._repr_html_()
    assert "<strong>question:</strong> &lt;b&gt;where?&lt;/b&gt;" in markup
    assert 'src="data:image/png;base64,' in markup


@pytest.mark.parametrize("size", [(1, 1), (400, 2), (2, 400)])
def test_extreme_picture_sizes(grounder: Grounder, size: tuple[int, int]) -> None:
    thought = grounder.think(picture(*size), QUESTION, max_new_tokens=8)
    assert thought.figure.width > 0


def test_lmm_that_takes_one_picture_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter: LMMAdapter = LlavaAdapter.build_tiny()
    adapter.tokenizer.chat_template = (
        "{% for m in messages %}<image>{{ m['content'][-1]['text'] }}{% endfor %} ASSISTANT:"
    )
    grounder = Grounder(adapter, tiny_head())
    assert grounder.chat(picture(), QUESTION, max_new_tokens=5).text
    monkeypatch.setattr(adapter, "generate", None)
    with pytest.raises(InputError, match=r"'tiny-llava' cannot be shown a picture and a part"):
        grounder.think(picture(), QUESTION)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"locate": "dream"}, "locate is 'dream'; choose 'answer' or 'question'"),
        ({"crop": "circle"}, "crop is 'circle'; choose 'box', 'mask' or 'random'"),
        ({"margin": -0.1}, r"margin is -0\.1; give 0 or more"),
        ({"margin": float("nan")}, "margin is nan"),
        ({"seed": -1}, "seed is -1; give 0 or more"),
        ({"first_question": ""}, "the question is empty"),
        ({"question": ""}, "the question is empty"),
        ({"max_new_tokens": 0}, "give at least 1"),
        ({"question": "What is <image>?"}, "stands for the picture"),
    ],
)
def test_bad_arguments_are_refused(
    grounder: Grounder, options: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        grounder.think(picture(), **{"question": QUESTION, **options})  # type: ignore[arg-type]
