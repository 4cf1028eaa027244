"""``Grounder.chat`` and ``Grounder.segment`` on random models."""

import hashlib
import json
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_grounding import tiny_head
from torch import nn

from flmm.attention.tracing import trace_generation
from flmm.errors import InputError
from flmm.grounding import head_mask_predictor, referring
from flmm.grounding.grounder import Grounder
from flmm.lmm.base import LMMAdapter
from flmm.lmm.families.llava import LlavaAdapter
from flmm.pictures.geometry import crop_to_picture, mask_box, resize_to_picture
from flmm.segmenters.prompts import PictureEmbeddings

QUESTION = "What is in the picture?"


def picture(width: int = 48, height: int = 48, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def checksum(adapter: LMMAdapter) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(adapter.model.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def grounder() -> Grounder:
    return Grounder(LlavaAdapter.build_tiny(), tiny_head(), model="tiny-head")


def generate_phrases(grounder: Grounder, image: Image.Image) -> tuple[str, list[str]]:
    """The generated answer's text and phrases."""
    answer = grounder.chat(image, QUESTION, max_new_tokens=40)
    return answer.text, [phrase.text for phrase in answer.phrases]


def test_lmm_is_not_changed(grounder: Grounder) -> None:
    adapter = grounder.adapter
    before = checksum(adapter)
    prompt = adapter.build_prompt(picture(), QUESTION)
    alone = adapter.generate(prompt, max_new_tokens=30)
    logits = adapter.model(**adapter.collate([prompt], keep_pixels=True).inputs).logits
    answer = grounder.chat(picture(), QUESTION, max_new_tokens=30)
    assert answer.text == alone.text
    assert torch.equal(
        adapter.model(**adapter.collate([prompt], keep_pixels=True).inputs).logits, logits
    )
    assert checksum(adapter) == before
    assert not any(parameter.requires_grad for parameter in adapter.model.parameters())


def test_phrases_have_spans_masks_boxes_and_scores(grounder: Grounder) -> None:
    answer = grounder.chat(picture(60, 40), QUESTION, max_new_tokens=40)
    assert answer.size == (40, 60)
    assert (answer.model, answer.lmm) == ("tiny-head", "tiny-llava")
    assert answer.phrases
    for phrase in answer.phrases:
        assert answer.text[phrase.start : phrase.end] == phrase.text
        assert phrase.mask.shape == (40, 60)
        assert phrase.mask.dtype == np.bool_
        assert phrase.tokens
        assert phrase.box == mask_box(torch.from_numpy(phrase.mask))
        assert phrase.area
        assert 0.5 < phrase.score <= 1
    assert set(answer.timings) == {"picture", "generate", "phrases", "picture embedding", "masks"}
    assert all(seconds >= 0 for seconds in answer.timings.values())
    json.dumps(answer.to_dict())


@torch.no_grad()
def test_masks_are_those_of_the_head(grounder: Grounder) -> None:
    image = picture(60, 40)
    answer = grounder.chat(image, QUESTION, max_new_tokens=40)
    adapter, head = grounder.adapter, grounder.head
    assert head is not None
    trace, text = trace_generation(adapter, adapter.build_prompt(image, QUESTION), 40)
    assert text == answer.text
    attention = torch.stack([trace.picture_attention.phrase_maps(p.tokens) for p in answer.phrases])
    states = [trace.hidden_states[:, list(p.tokens)] for p in answer.phrases]
    output = head(attention, states, trace.geometry, head.refiner.encode(np.asarray(image)))
    assert all(0 < phrase.area < 60 * 40 for phrase in answer.phrases)
    for phrase, logits in zip(answer.phrases, output.refined_logits, strict=True):
        assert np.array_equal(phrase.mask, (logits > 0).numpy())
    rough = grounder.chat(image, QUESTION, max_new_tokens=40, refine=False)
    decoded = crop_to_picture(head.mask_decoder(attention)[:, 0], trace.geometry)
    expected = resize_to_picture(decoded, trace.geometry) > 0
    assert any(phrase.area for phrase in rough.phrases)
    for phrase, mask in zip(rough.phrases, expected, strict=True):
        assert np.array_equal(phrase.mask, mask.numpy())
    assert "picture embedding" not in rough.timings


def test_empty_masks_have_an_empty_box_and_no_score() -> None:
    head = tiny_head()
    classifier = head.mask_decoder.classifier
    nn.init.zeros_(classifier.weight)
    assert classifier.bias is not None
    nn.init.constant_(classifier.bias, -5)
    answer = Grounder(LlavaAdapter.build_tiny(), head).segment(picture(), ["a cat"], refine=False)
    phrase = answer.phrases[0]
    assert (phrase.area, phrase.box, phrase.score) == (0, (0, 0, 0, 0), 0.0)


def test_given_phrases_are_grounded_in_their_order(grounder: Grounder) -> None:
    text, phrases = generate_phrases(grounder, picture())
    answer = grounder.chat(picture(), QUESTION, [phrases[1], phrases[0]], max_new_tokens=40)
    assert [phrase.text for phrase in answer.phrases] == [phrases[1], phrases[0]]
    assert answer.text == text
    with pytest.raises(InputError, match=r"'a zeppelin' is not in the text"):
        grounder.chat(picture(), QUESTION, ["a zeppelin"], max_new_tokens=40)


def test_noun_chunks_replace_a_missing_selector() -> None:
    grounder = Grounder(LlavaAdapter.build_tiny(), tiny_head(selector=False))
    answer = grounder.chat(picture(), QUESTION, max_new_tokens=20)
    chunked = grounder.chat(picture(), QUESTION, max_new_tokens=20, phrase_source="noun_chunks")
    assert [p.text for p in answer.phrases] == [p.text for p in chunked.phrases]
    with pytest.raises(InputError, match="no keyword selector"):
        grounder.chat(picture(), QUESTION, max_new_tokens=20, phrase_source="selector")


@pytest.mark.parametrize(
    ("question", "phrases", "message"),
    [
        ("", None, "the question is empty"),
        (" \n", None, "the question is empty"),
        ("Is \ud800 there?", None, "not valid Unicode"),
        (QUESTION, [], "the list of phrases is empty"),
        (QUESTION, ["  "], "the phrase is empty"),
        (QUESTION, "a cat", "give a list, such as"),
        ("What is <image>?", None, "stands for the picture"),
    ],
)
def test_bad_question_or_phrase_is_refused(
    grounder: Grounder, question: str, phrases: list[str] | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        grounder.chat(picture(), question, phrases)


def test_answer_is_cut_at_max_new_tokens(grounder: Grounder) -> None:
    long = grounder.chat(picture(), QUESTION, max_new_tokens=12).text
    short = grounder.chat(picture(), QUESTION, max_new_tokens=4).text
    assert long.startswith(short.rstrip("\N{REPLACEMENT CHARACTER}"))
    with pytest.raises(InputError, match="give at least 1"):
        grounder.chat(picture(), QUESTION, max_new_tokens=0)


@pytest.mark.parametrize("size", [(1, 1), (400, 2), (2, 400)])
def test_extreme_picture_sizes(grounder: Grounder, size: tuple[int, int]) -> None:
    answer = grounder.segment(picture(*size), ["a cat", "grass"])
    for phrase in answer.phrases:
        assert phrase.mask.shape == (size[1], size[0])
    assert answer.overlay.width >= 720


def test_picture_embeddings_are_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    head = tiny_head()
    grounder = Grounder(LlavaAdapter.build_tiny(), head)
    encoded: list[Image.Image] = []
    encode = head.refiner.encode

    def spy_encode(*pictures: Image.Image) -> PictureEmbeddings:
        encoded.extend(pictures)
        return encode(*pictures)

    monkeypatch.setattr(head.refiner, "encode", spy_encode)
    first = grounder.segment(picture(), ["a cat"])
    again = grounder.segment(np.asarray(picture()), ["a cat"])
    assert len(encoded) == 1
    assert np.array_equal(first.phrases[0].mask, again.phrases[0].mask)
    # The same bytes in another shape are another picture.
    grounder.segment(picture(96, 24), ["a cat"])
    assert len(encoded) == 2
    for seed in range(1, 5):
        grounder.segment(picture(seed=seed), ["a cat"])
    grounder.segment(picture(), ["a cat"])
    assert len(encoded) == 7


def test_segment_gives_each_phrase_as_the_answer(
    grounder: Grounder, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchanges: list[tuple[str, str | None]] = []
    build_prompts = grounder.adapter.build_prompts

    def spy_prompts(image: Image.Image, texts: Sequence[tuple[str, str | None]]) -> object:
        exchanges.extend(texts)
        return build_prompts(image, texts)

    monkeypatch.setattr(grounder.adapter, "build_prompts", spy_prompts)
    phrases = [" the cat on the left ", "{grass} & É猫", "ß"]
    answer = grounder.segment(picture(), phrases)
    assert answer.text == "the cat on the left, {grass} & É猫, ß"
    assert [answer.text[p.start : p.end] for p in answer.phrases] == [p.strip() for p in phrases]
    assert exchanges == [
        ("Where is the cat on the left?", "The cat on the left"),
        ("Where is {grass} & É猫?", "{grass} & É猫"),
        ("Where is ß?", "SS"),
    ]
    assert [phrase.text for phrase in answer.phrases] == [phrase.strip() for phrase in phrases]


def test_segment_does_not_depend_on_the_batch_size(
    grounder: Grounder, monkeypatch: pytest.MonkeyPatch
) -> None:
    phrases = ["the cat", "the small dog on the left", "grass", "a", "sky"]
    large_batch = grounder.segment(picture(), phrases)
    monkeypatch.setattr(referring, "_SEQUENCES_PER_PASS", 2)
    monkeypatch.setattr(head_mask_predictor, "_MAX_LOGITS_PER_PASS", 1)
    passes: list[int] = []
    handle = grounder.adapter.decoder_layers[0].register_forward_pre_hook(
        lambda _, arguments: passes.append(len(arguments[0]))
    )
    small_batches = grounder.segment(picture(), phrases)
    handle.remove()
    assert passes == [1, 2, 2, 1], "the picture, then two phrases at a time"
    for one, other in zip(large_batch.phrases, small_batches.phrases, strict=True):
        assert (one.mask != other.mask).mean() < 0.01
        assert one.tokens == other.tokens


def test_segment_processes_the_picture_once(
    grounder: Grounder, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture_counts: list[int] = []
    process = grounder.adapter.process_pictures

    def spy_process(pictures: Sequence[Image.Image]) -> Mapping[str, torch.Tensor]:
        picture_counts.append(len(pictures))
        return process(pictures)

    monkeypatch.setattr(grounder.adapter, "process_pictures", spy_process)
    grounder.segment(picture(), [f"cat {number}" for number in range(10)])
    assert picture_counts == [1]


@pytest.mark.parametrize("phrases", [[], [""], ["a cat", " "]])
def test_segment_refuses_empty_phrases(grounder: Grounder, phrases: list[str]) -> None:
    with pytest.raises(InputError, match="empty"):
        grounder.segment(picture(), phrases)
