"""Masks without a trained head: loading, phrases, caches, streams, and what evaluate measures."""

import json
from pathlib import Path

import numpy as np
import pytest
from command import run_in_process
from evaluation_world import mask_of, measure
from PIL import Image
from tiny_grounding import save_lmm, save_tiny_head, tiny_head

import flmm
from flmm.data.exchanges import ReferringProtocol
from flmm.data.fixtures import write_plain
from flmm.data.readers.plain import read_plain
from flmm.errors import InputError
from flmm.evaluate.benchmark import mask_model_fingerprint
from flmm.evaluate.results import read_rows
from flmm.evaluate.rows import PhraseRow
from flmm.grounding.grounder import Grounder
from flmm.grounding.streaming import AnswerEvent, PhraseEvent
from flmm.lmm.families.llava import LlavaAdapter
from flmm.segmenters.sam import SamSegmenter
from flmm.training_free.profile import Profile

CAPTION = "The dog is left of a cat, the dog sleeps on grass."
QUESTION = "What is in the picture?"


@pytest.fixture(scope="module")
def lmm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_lmm(tmp_path_factory.mktemp("models") / "lmm")


@pytest.fixture(scope="module")
def grounder() -> Grounder:
    return Grounder(LlavaAdapter.build_tiny(), segmenter=SamSegmenter.build_tiny())


@pytest.fixture
def picture() -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize("sam", ["embedded:sam", "none"])
def test_from_pretrained(lmm: Path, picture: Image.Image, sam: str) -> None:
    grounder = flmm.Grounder.from_pretrained(lmm=str(lmm), sam=sam, device="cpu")
    assert grounder.head is None
    assert (grounder.segmenter is None) == (sam == "none")
    answer = grounder.ground(picture, CAPTION)
    content = answer.to_dict()
    assert (content["model"], content["lmm"]) == ("training-free", str(lmm))
    assert [phrase.text for phrase in answer.phrases] == [
        "The dog", "a cat", "the dog", "grass",
    ]  # fmt: skip
    assert ("picture embedding" in answer.timings) == (sam != "none")


def test_attention_of_the_embedded_lmm_is_on_what_it_names() -> None:
    alone = Grounder.from_pretrained(lmm="embedded:lmm", sam="none", device="cpu")
    with_head = Grounder.from_pretrained(device="cpu")
    demo = Path(flmm.__file__).parent / "assets" / "pictures" / "demo.png"
    expected = with_head.chat(demo, QUESTION)
    answer = alone.chat(demo, QUESTION, [phrase.text for phrase in expected.phrases])
    assert answer.text == expected.text
    assert len(answer.phrases) > 4
    for found, true in zip(answer.phrases, expected.phrases, strict=True):
        by_chance = found.mask.mean()
        assert found.mask[true.mask].mean() > 1.5 * by_chance


def test_default_sam_that_is_not_there_is_named(
    lmm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match=r"'facebook/sam2.1-hiera-small'.*--sam none"):
        Grounder.from_pretrained(lmm=str(lmm))
    demo = Path(flmm.__file__).parent / "assets" / "pictures" / "demo.png"
    ended = run_in_process(["chat", str(demo), QUESTION, "--lmm", str(lmm), "--json"], capsys)
    assert (ended.code, ended.out) == (2, "")
    assert len(ended.err.splitlines()) == 1


def test_mistakes_are_refused(lmm: Path, grounder: Grounder, picture: Image.Image) -> None:
    with pytest.raises(InputError, match="'selector', which is part of a trained head"):
        grounder.chat(picture, QUESTION, phrase_source="selector")
    with pytest.raises(InputError, match="SAM 'none' is for masks without a head"):
        Grounder.from_pretrained(sam="none")
    with pytest.raises(InputError, match=r"model of type 'llava'.*as the LMM \(--lmm\)"):
        Grounder.from_pretrained(str(lmm))
    with pytest.raises(InputError, match="a head takes neither segmenter nor profile"):
        Grounder(grounder.adapter, tiny_head(), grounder.segmenter)


def test_second_question_runs_neither_vision_tower_nor_encoder(grounder: Grounder) -> None:
    values = np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    segmenter = grounder.segmenter
    assert segmenter is not None
    runs: list[str] = []
    hooks = [
        segmenter.vision_encoder.register_forward_hook(lambda *_: runs.append("SAM")),
        grounder.adapter.model.get_submodule("model.vision_tower").register_forward_hook(
            lambda *_: runs.append("vision tower")
        ),
    ]
    grounder.segment(values, ["the cat"])
    assert sorted(runs) == ["SAM", "vision tower"]
    grounder.chat(values, "What is it?", max_new_tokens=4)
    grounder.ground(values, CAPTION)
    grounder.attend(values, QUESTION, max_new_tokens=4)
    list(grounder.stream(values, QUESTION, max_new_tokens=4))
    assert sorted(runs) == ["SAM", "vision tower"]
    for hook in hooks:
        hook.remove()


def test_attention_alone(grounder: Grounder, picture: Image.Image) -> None:
    alone = Grounder(grounder.adapter)
    refined = grounder.ground(picture, CAPTION)
    rough = grounder.ground(picture, CAPTION, refine=False)
    assert "picture embedding" not in rough.timings
    for phrase, same, other in zip(
        rough.phrases, alone.ground(picture, CAPTION).phrases, refined.phrases, strict=True
    ):
        assert 0 < phrase.area < 60 * 40
        assert np.array_equal(phrase.mask, same.mask)
        assert not np.array_equal(phrase.mask, other.mask)


@pytest.mark.parametrize("of", ["words", "whole answer", "both"])
def test_stream_ends_with_what_chat_returns(
    grounder: Grounder, picture: Image.Image, of: str
) -> None:
    text = grounder.chat(picture, QUESTION, max_new_tokens=20).text
    phrases = [text[:3], text[-3:]]
    if of != "words":
        phrases = [text, *(phrases if of == "both" else [])]
    expected = grounder.chat(picture, QUESTION, phrases, max_new_tokens=20)
    events = list(grounder.stream(picture, QUESTION, phrases, max_new_tokens=20))
    last = events[-1]
    assert isinstance(last, AnswerEvent)
    assert last.answer.text == expected.text
    streamed = [event.phrase for event in events if isinstance(event, PhraseEvent)]
    assert sorted(phrase.text for phrase in streamed) == sorted(phrases)
    # Phrases that are complete only with the answer are sent as they are in it.
    assert any(phrase is streamed[-1] for phrase in last.answer.phrases)
    for phrase, same in zip(last.answer.phrases, expected.phrases, strict=True):
        assert np.array_equal(phrase.mask, same.mask)
        assert phrase.score == same.score


@pytest.mark.parametrize("protocol", list(ReferringProtocol))
def test_masks_are_those_that_evaluate_measures(
    grounder: Grounder, tmp_path: Path, protocol: ReferringProtocol
) -> None:
    write_plain(tmp_path / "plain", 5)
    samples = read_plain(tmp_path / "plain" / "texts.jsonl")
    report = measure(grounder, samples, tmp_path / "out", protocol=protocol)
    assert report.run_record.method == "training-free"
    assert {row.name for table in report.tables for row in table.rows} == {"training-free"}
    rows = read_rows(tmp_path / "out", PhraseRow)
    compared = 0
    for row in rows:
        if row.kind == "caption":
            of_caption = sorted(
                (
                    other
                    for other in rows
                    if (other.picture, other.text_identity) == (row.picture, row.text_identity)
                ),
                key=lambda other: other.start,
            )
            answer = grounder.ground(row.picture, row.sentence, [r.text for r in of_caption])
            (phrase,) = [p for p in answer.phrases if (p.start, p.end) == (row.start, row.end)]
        elif protocol is ReferringProtocol.ONE_BY_ONE and row.kind == "expression":
            (phrase,) = grounder.segment(row.picture, [row.sentence]).phrases
        else:
            continue
        assert np.array_equal(phrase.mask, mask_of(row, row.predicted_mask))
        assert phrase.score == row.score
        compared += 1
    assert compared > 10


def test_results_of_another_sam_lmm_or_head_are_not_mixed(
    grounder: Grounder, tmp_path: Path
) -> None:
    write_plain(tmp_path / "plain", 2)
    samples = read_plain(tmp_path / "plain" / "texts.jsonl")
    out = tmp_path / "out"
    measure(grounder, samples, out)
    alone = Grounder(grounder.adapter)
    with pytest.raises(InputError, match=r"its SAM is .*, this one.s .none"):
        measure(alone, samples, out)
    lmm = Grounder(LlavaAdapter.build_tiny(grouped_queries=True), segmenter=grounder.segmenter)
    with pytest.raises(InputError, match="its LMM "):
        measure(lmm, samples, out)


def test_results_with_a_profile_belong_to_its_weights_and_not_to_a_folder(
    grounder: Grounder,
) -> None:
    adapter = grounder.adapter
    count = adapter.layers * adapter.heads * adapter.views

    def fingerprint(lmm: str, weights: tuple[float, ...]) -> str:
        profile = Profile(
            layers=adapter.layers,
            heads=adapter.heads,
            views=adapter.views,
            base_model_name_or_path=lmm,
            base_model_type=adapter.model_type,
            head_weights=weights,
            num_phrases=1,
            with_masks=False,
        )
        return mask_model_fingerprint(Grounder(adapter, profile=profile))

    first = fingerprint("/here/lmm", (1.0,) * count)
    assert first == fingerprint("/there/lmm", (1.0,) * count)
    assert first != fingerprint("/here/lmm", (1.0,) * (count - 1) + (0.5,))
    assert first != mask_model_fingerprint(Grounder(adapter))


def test_attend_loads_neither_head_nor_sam(
    lmm: Path,
    picture: Image.Image,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    head = save_tiny_head(tmp_path / "head", str(lmm))
    picture.save(tmp_path / "picture.png")
    arguments = ["attend", str(tmp_path / "picture.png"), QUESTION, "--answer", CAPTION, "--json"]
    for name in ("load_head", "load_segmenter"):
        monkeypatch.setattr(f"flmm.grounding.loading.{name}", None)
    texts = []
    for options in (["--lmm", str(lmm)], ["--model", str(head)]):
        ended = run_in_process([*arguments, *options], capsys)
        assert (ended.code, ended.err) == (0, "")
        content = json.loads(ended.out)
        assert content["lmm"] == str(lmm)
        texts.append(content["words"])
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("head", "lmm", "sam", "kind"),
    [("", None, None, "head"), (None, " ", None, "LMM"), (None, "embedded:lmm", "", "SAM")],
)
def test_empty_names_are_refused(
    head: str | None, lmm: str | None, sam: str | None, kind: str
) -> None:
    with pytest.raises(InputError, match=rf"the name of the {kind} is empty; write one"):
        Grounder.from_pretrained(head, lmm=lmm, sam=sam)


def test_a_folder_with_a_head_and_a_profile_is_refused(tmp_path: Path) -> None:
    head = save_tiny_head(tmp_path / "head", "embedded:lmm")
    (head / "flmm-profile.json").write_text("{}")
    with pytest.raises(InputError, match="holds a head and a profile; name the profile's file"):
        Grounder.from_pretrained(head)


def test_other_models_in_the_place_of_a_head_are_named(tmp_path: Path) -> None:
    lmm = save_lmm(tmp_path / "lmm")
    for sam in (None, "none"):
        with pytest.raises(InputError, match=r"a model of type 'llava'.* as the LMM \(--lmm\)"):
            Grounder.from_pretrained(lmm, sam=sam)
    with pytest.raises(InputError, match=r"a model of type 'sam'.* as the SAM \(--sam\)"):
        Grounder.from_pretrained("embedded:sam")


def test_the_lmm_can_be_a_path(tmp_path: Path) -> None:
    lmm = save_lmm(tmp_path / "lmm")
    grounder = Grounder.from_pretrained(lmm=lmm, sam="none", device="cpu")
    assert grounder.lmm == str(lmm)
