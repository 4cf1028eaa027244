"""``Grounder.attend``: the maps are the LMM's own, and lie where the picture is."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_grounding import tiny_head

from flmm.attention.tracing import trace_generation, trace_text
from flmm.errors import InputError
from flmm.grounding.grounder import Grounder
from flmm.head.model import GroundingHead
from flmm.lmm.families.llava import LlavaAdapter
from flmm.lmm.families.llava_next import LlavaNextAdapter
from flmm.pictures.geometry import resize_maps_to_picture
from flmm.types import ImageGeometry

QUESTION = "What is in the picture?"
CAPTION = "the cat and the dog on the grass"
DEMO = Path(__file__).parents[3] / "src" / "flmm" / "assets" / "pictures" / "demo.png"


def picture(width: int = 60, height: int = 40) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.fixture(scope="module")
def grounder() -> Grounder:
    return Grounder(LlavaAdapter.build_tiny(), tiny_head())


def test_maps_of_a_generated_answer(grounder: Grounder) -> None:
    view = grounder.attend(picture(), QUESTION, max_new_tokens=30)
    adapter = grounder.adapter
    trace, text = trace_generation(adapter, adapter.build_prompt(picture(), QUESTION), 30)
    assert view.text == text == grounder.chat(picture(), QUESTION, max_new_tokens=30).text
    assert (view.question, view.lmm) == (QUESTION, "tiny-llava")
    assert view.geometry == trace.geometry
    assert len(view.words) > 2
    for word in view.words:
        assert text[word.start : word.end] == word.text
        assert word.maps.shape == (3, 4, *trace.geometry.grid)
        assert word.maps.dtype == np.float32
        expected = trace.attention[:, :, list(word.tokens)].mean(dim=2)
        assert np.allclose(word.maps, expected.numpy(), atol=1e-7)
        assert (word.maps.sum(axis=(2, 3)) <= 1 + 1e-4).all()
        assert np.allclose(word.map(), word.maps.mean(axis=(0, 1)))
        assert np.array_equal(word.map(1, 2), word.maps[1, 2])
        assert np.allclose(word.map(head=3), word.maps[:, 3].mean(axis=0))


def test_maps_of_a_given_caption(grounder: Grounder) -> None:
    view = grounder.attend(picture(), QUESTION, ["the", "dog", "the"], answer=f" {CAPTION}\n")
    assert view.text == CAPTION
    assert [(word.text, word.start) for word in view.words] == [
        ("the", 0), ("dog", 16), ("the", 12),
    ]  # fmt: skip
    trace = trace_text(
        grounder.adapter, grounder.adapter.build_prompt(picture(), QUESTION, CAPTION)
    )
    dog = view.words[1]
    expected = trace.attention[:, :, list(dog.tokens)].mean(dim=2)
    assert np.allclose(dog.maps, expected.numpy(), atol=1e-7)
    all_words = grounder.attend(picture(), QUESTION, answer=CAPTION)
    assert [word.text for word in all_words.words] == CAPTION.split()


def test_tiled_lmm_has_maps_of_both_views() -> None:
    adapter = LlavaNextAdapter.build_tiny()
    sizes = {"layers": adapter.layers, "heads": adapter.heads, "hidden_size": adapter.hidden_size}
    tiny = tiny_head()
    fields = {**vars(tiny.config), **sizes, "views": adapter.views}
    head = GroundingHead(type(tiny.config)(**fields), tiny.refiner.segmenter)
    word = Grounder(adapter, head).attend(picture(), QUESTION, ["cat"], answer="a cat").words[0]
    assert word.maps.shape[:2] == (2 * adapter.layers, adapter.heads)


def test_json_and_figure(grounder: Grounder, tmp_path: Path) -> None:
    view = grounder.attend(picture(), QUESTION, ["cat", "grass"], answer=CAPTION)
    content = view.to_dict()
    assert json.loads(json.dumps(content)) == content
    assert (content["text"], content["size"], content["grid"]) == (CAPTION, [40, 60], [8, 8])
    word = content["words"][0]
    assert np.allclose(word["map"], view.words[0].map(), atol=1e-6)
    assert word["on_picture"] == pytest.approx(np.sum(word["map"]), abs=1e-3)
    one_head = view.to_dict(2, 1)
    assert (one_head["layer"], one_head["head"]) == (2, 1)
    assert np.allclose(one_head["words"][1]["map"], view.words[1].maps[2, 1], atol=1e-6)
    view.save(tmp_path / "mean.png")
    view.save(tmp_path / "one_head.png", layer=2, head=1)
    with Image.open(tmp_path / "mean.png") as mean, Image.open(tmp_path / "one_head.png") as paired:
        assert mean.size != paired.size
    assert view._repr_png_().startswith(b"\x89PNG")
    markup = replace(view, text="<b>it</b>")._repr_html_()
    assert "<strong>answer:</strong> &lt;b&gt;it&lt;/b&gt;" in markup
    assert 'src="data:image/png;base64,' in markup


def test_heatmap_follows_crop_and_resize(grounder: Grounder) -> None:
    """The map's maximum in the picture is where its grid cell is."""
    geometry = ImageGeometry((40, 60), (32, 48), (0, -8), (32, 32), (8, 8))
    maps = torch.zeros(1, 8, 8)
    maps[0, 1, 6] = 1
    on_picture = resize_maps_to_picture(maps, geometry, (40, 60))[0]
    row, column = divmod(int(on_picture.argmax()), 60)
    # Cell (1, 6) has its centre at canvas pixel (6, 26): 6 and 34 of the resized picture.
    assert row == pytest.approx(6 / 32 * 40, abs=1)
    assert column == pytest.approx(34 / 48 * 60, abs=1)
    assert not on_picture[:, :9].any()
    assert not on_picture[:, -9:].any()
    view = grounder.attend(picture(), QUESTION, ["cat"], answer=CAPTION)
    assert view.figure().width >= 720


@pytest.mark.parametrize("size", [(1, 1), (400, 2), (2, 400)])
def test_extreme_pictures_and_texts(grounder: Grounder, size: tuple[int, int]) -> None:
    view = grounder.attend(picture(*size), QUESTION, answer="a 猫 " + "long" * 80)
    assert view.figure(0).width > 0
    wordless = grounder.attend(picture(*size), QUESTION, answer="?!")
    assert wordless.words == ()
    assert wordless.figure().width > 0


def test_embedded_model_attends_to_what_it_names() -> None:
    grounder = Grounder.from_pretrained()
    view = grounder.attend(DEMO, QUESTION, ["dog", "pineapple", "pizza"])
    phrases = grounder.chat(DEMO, QUESTION, ["dog", "pineapple", "pizza"]).phrases
    heatmaps = resize_maps_to_picture(
        torch.from_numpy(np.stack([word.map() for word in view.words])),
        view.geometry,
        view.geometry.picture,
    ).numpy()
    inside = np.array([[heatmap[phrase.mask].sum() for phrase in phrases] for heatmap in heatmaps])
    assert inside.argmax(axis=1).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"question": " "}, "the question is empty"),
        ({"answer": ""}, "the answer is empty"),
        ({"words": []}, "the list of phrases is empty"),
        ({"words": ["zeppelin"], "answer": CAPTION}, "'zeppelin' is not in the text"),
        ({"max_new_tokens": 0}, "give at least 1"),
    ],
)
def test_bad_arguments_are_refused(
    grounder: Grounder, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        grounder.attend(picture(), **{"question": QUESTION, **arguments})  # type: ignore[arg-type]


def test_missing_layer_or_head_is_refused(grounder: Grounder, tmp_path: Path) -> None:
    view = grounder.attend(picture(), QUESTION, ["cat"], answer=CAPTION)
    with pytest.raises(InputError, match=r"layer 3 is not in 0\.\.2"):
        view.save(tmp_path / "a.png", layer=3)
    with pytest.raises(InputError, match=r"head -1 is not in 0\.\.3"):
        view.to_dict(head=-1)
    assert list(tmp_path.iterdir()) == []
