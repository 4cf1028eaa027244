"""``flmm report segmentation-token``: trained copies, their scores, and unsuitable inputs."""

import hashlib
import json
from collections import Counter
from dataclasses import replace
from enum import StrEnum
from pathlib import Path

import numpy as np
import pytest
import torch
from command import run_in_process
from PIL import Image
from tiny_grounding import save_lmm, save_tiny_head
from torch import nn

from flmm.data.fixtures import write_plain
from flmm.embedded_model.evaluate_text import compute_text_scores, count_text_results
from flmm.embedded_model.recipe.lmm_architecture import END_TOKEN, find_token_id
from flmm.embedded_model.recipe.packing import answer_loss
from flmm.errors import InputError
from flmm.grounding.grounder import Grounder
from flmm.progress import no_progress
from flmm.report.context import ReportContext
from flmm.report.data import read_sticker_data
from flmm.report.segmentation_token.conversation_scores import ALL_BUT_WHERE, CAPTION
from flmm.report.segmentation_token.embedded_token_model import EmbeddedTokenModel
from flmm.report.segmentation_token.measurement import check
from flmm.report.segmentation_token.token_model import SEG_TOKEN
from flmm.report.segmentation_token.token_training import (
    TrainingScheme,
    answer_with_token,
    append_token_to_phrases,
    build_token_batch,
    compute_token_loss,
    train,
)
from flmm.stickers.dataset import EVALUATION_SEED
from flmm.stickers.draw import draw
from flmm.stickers.language import band_place_turn, caption_turn
from flmm.stickers.scene import generate_scene
from flmm.train.losses import mask_loss

SMALL_SIZES = ("--scenes", "2", "--calibration", "2", "--training", "2", "--device", "cpu")
QUESTIONS = ("Where is the grass?", "Where is the cat on the left?")


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def grounder() -> Grounder:
    return Grounder.from_pretrained(device="cpu")


def checksum(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def test_copies_are_measured_beside_the_frozen_model(
    grounder: Grounder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flmm.report.segmentation_token.measurement.STEPS", 1)
    ended = run_in_process(["report", "segmentation-token", *SMALL_SIZES], capsys)
    assert ended.code == 0, ended.err
    assert ended.out == "docs/report.md\n"
    folder = Path("docs/report")
    with Image.open(folder / "segmentation-token.png") as figure:
        assert figure.width > 1000
    assert "](report/segmentation-token.png)" in Path("docs/report.md").read_text()

    results = json.loads((folder / "segmentation-token.json").read_text())["results"]
    assert results["pictures"] == 2
    assert results["steps"] == 1
    rows = results["rows"]
    assert [row["name"] for row in rows] == [
        "frozen LMM + head", "copy, LISA's way", "copy, GLaMM's way",
    ]  # fmt: skip
    for row in rows:
        assert row["things"]["phrases"] == rows[0]["things"]["phrases"] > 0
        assert row["talk"]["questions"] == 10
        assert row["talk"]["right"].keys() >= {"follow up", ALL_BUT_WHERE}
        assert row["talk"]["token"].keys() == {*row["talk"]["right"], CAPTION}
    # After one step, copies ground worse than the head; the frozen LMM has no token to generate.
    for copy in rows[1:]:
        assert copy["stuff"]["mean_iou"]["value"] < rows[0]["stuff"]["mean_iou"]["value"]
    assert {share["value"] for share in rows[0]["talk"]["token"].values()} == {0}
    assert grounder.head is not None
    words = compute_text_scores(
        sum(
            (
                count_text_results(
                    grounder.adapter,
                    grounder.head,
                    draw(generate_scene(seed)),
                    seed,
                    has_stuff=True,
                )
                for seed in range(EVALUATION_SEED, EVALUATION_SEED + 2)
            ),
            Counter(),
        )
    )
    assert rows[0]["talk"]["named"]["value"] == pytest.approx(100 * words.named)
    assert rows[0]["talk"]["absent"]["value"] == pytest.approx(100 * (words.absent or 0))


def test_training_changes_the_copy_alone_and_is_not_repeated(
    grounder: Grounder, tmp_path: Path
) -> None:
    adapter, head = grounder.adapter, grounder.head
    assert head is not None
    before = checksum(adapter.model), checksum(head), len(adapter.tokenizer)
    copy = EmbeddedTokenModel(grounder)
    frozen = (copy.lmm.model.vision_tower, copy.refiner.segmenter.vision_encoder)
    trained = (
        copy.lmm.model.language_model, copy.lmm.model.multi_modal_projector, copy.projection,
        copy.refiner.sam.get_submodule("prompt_encoder"), copy.refiner.segmenter.mask_decoder,
    )  # fmt: skip
    frozen_before = [checksum(module) for module in frozen]
    trained_before = [checksum(module) for module in trained]
    train(copy, TrainingScheme.LISA, tmp_path, 1, no_progress)
    assert [checksum(module) for module in frozen] == frozen_before
    assert all(checksum(module) != old for module, old in zip(trained, trained_before, strict=True))
    assert (checksum(adapter.model), checksum(head), len(adapter.tokenizer)) == before
    assert adapter.model.config.text_config.vocab_size == before[2]
    assert copy.lmm.config._attn_implementation == adapter.model.config._attn_implementation

    resumed = EmbeddedTokenModel(grounder)
    train(resumed, TrainingScheme.LISA, tmp_path, 1, lambda *_: pytest.fail("it is trained again"))
    assert checksum(resumed) == checksum(copy)


def test_masks_depend_on_their_own_question_alone(grounder: Grounder) -> None:
    copy = EmbeddedTokenModel(grounder)
    drawing = draw(generate_scene(EVALUATION_SEED + 3))
    picture = Image.fromarray(drawing.picture)
    masks = copy.predict_masks(picture, QUESTIONS)
    assert masks.shape == (2, *drawing.region_ids.shape)
    assert masks.dtype == torch.bool
    # Other questions in the batch do not change a question's mask.
    for question, mask in zip(QUESTIONS, masks, strict=True):
        (alone,) = copy.predict_masks(picture, [question])
        assert (alone != mask).float().mean() < 1e-3
    # The token's mask depends on the question.
    assert not torch.equal(masks[0], masks[1])


def test_training_tokens_match_the_adapters_prompt(grounder: Grounder) -> None:
    copy = EmbeddedTokenModel(grounder)
    drawing = draw(generate_scene(4), 320)
    turn = append_token_to_phrases(caption_turn(drawing.scene))
    texts = copy.pack_texts([drawing.picture], [[turn]])
    prompt = copy.build_adapter().build_prompt(Image.fromarray(drawing.picture), turn.question)
    *ids, end = texts.input_ids[0].tolist()
    assert end == find_token_id(copy.tokenizer, END_TOKEN)
    assert ids[: prompt.length] == prompt.inputs["input_ids"][0].tolist()
    torch.testing.assert_close(texts.pixel_values, prompt.inputs["pixel_values"])
    # Without the token, the tokens are those of the original LMM.
    answer = caption_turn(drawing.scene).answer
    plain = grounder.adapter.build_prompt(Image.fromarray(drawing.picture), turn.question, answer)
    assert plain.inputs["input_ids"][0].tolist() == [
        token for token in ids if token != copy.token_id
    ]
    assert copy.build_adapter().decode(torch.tensor(ids[prompt.length :])) == answer


@pytest.mark.parametrize("scheme", TrainingScheme)
def test_batches_have_a_mask_for_every_token(grounder: Grounder, scheme: TrainingScheme) -> None:
    copy = EmbeddedTokenModel(grounder)
    drawings = [draw(generate_scene(seed), 320) for seed in (1, 2)]
    batch = build_token_batch(copy, scheme, drawings, np.random.default_rng(0))
    tokens = batch.texts.input_ids == copy.token_id
    assert int(tokens.sum()) == len(batch.targets)
    counts = tokens.sum(1).tolist()
    phrases = [len(caption_turn(drawing.scene).mentions) for drawing in drawings]
    assert counts == ([3, 3] if scheme is TrainingScheme.LISA else [2 + count for count in phrases])
    # The token is among the training targets.
    assert int((batch.texts.targets == copy.token_id).sum()) == len(batch.targets)
    # The mask loss reaches the LLM's first layer, but not the vision tower.
    embeddings = copy.refiner.encode(*batch.pictures)
    copy.lmm.model.language_model.requires_grad_(True)
    states, masks = copy(batch.texts, embeddings, (320, 320), "low")
    assert masks.shape[1:] == (copy.refiner.segmenter.low_resolution_side,) * 2
    mask_loss(masks, torch.ones_like(masks)).backward()  # type: ignore[no-untyped-call]
    gradient = copy.lmm.model.language_model.layers[0].mlp.down_proj.weight.grad
    assert gradient is not None
    assert gradient.abs().max() > 0
    assert all(weight.grad is None for weight in copy.lmm.model.vision_tower.parameters())
    # The loss counts both text and masks.
    text_loss = float(answer_loss(copy.lmm, batch.texts, states))
    right, wrong = (
        float(compute_token_loss(copy, part))
        for part in (batch, replace(batch, targets=~batch.targets))
    )
    assert 0 < text_loss < min(right, wrong)
    assert right != wrong


def test_the_token_follows_each_phrase_or_is_the_answer() -> None:
    caption = caption_turn(generate_scene(4))
    with_tokens = append_token_to_phrases(caption)
    assert with_tokens.question == caption.question
    assert with_tokens.answer.replace(f" {SEG_TOKEN}", "") == caption.answer
    for before, after in zip(caption.mentions, with_tokens.mentions, strict=True):
        phrase = caption.answer[before.start : before.end]
        assert with_tokens.answer[after.start : after.end] == f"{phrase} {SEG_TOKEN}"
        assert (after.things, after.bands) == (before.things, before.bands)
    where = answer_with_token(band_place_turn(generate_scene(4), 1))
    assert where.answer == f"It is {SEG_TOKEN}."
    assert [mention.bands for mention in where.mentions] == [(1,)]


def test_data_without_scenes_are_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_plain(Path("plain"), 6)
    Path("mine.yaml").write_text("{kind: plain, name: mine, file: plain/texts.jsonl}\n")
    options = ["--data", "mine.yaml", *SMALL_SIZES, "--out", "mine"]
    ended = run_in_process(["report", "segmentation-token", *options], capsys)
    assert ended.code == 2
    assert "data 'mine' have no scenes" in ended.err
    assert ended.err.count("\n") == 1
    # Without claims on the command line, those that do not suit the data are left out.
    monkeypatch.setattr("flmm.cli.report.ClaimName", StrEnum("All", {"ONE": "segmentation-token"}))
    ended = run_in_process(["report", *options], capsys)
    assert ended.code == 0, ended.err
    assert "segmentation-token: left out (data 'mine' have no scenes" in ended.err
    assert not list(Path("mine").glob("*"))


def test_training_scenes_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text(
        "{kind: stickers, name: mine, folder: scenes, scenes: 6, first_scene: 7}\n"
    )
    ended = run_in_process(
        ["report", "segmentation-token", "--data", "mine.yaml", *SMALL_SIZES], capsys
    )
    assert ended.code == 2
    assert "scene 11 is one of" in ended.err
    assert ended.err.count("\n") == 1


def test_other_lmms_are_refused(grounder: Grounder, tmp_path: Path) -> None:
    head = save_tiny_head(tmp_path / "head", str(save_lmm(tmp_path / "lmm")))
    other = Grounder.from_pretrained(head, device="cpu")
    data = read_sticker_data(tmp_path / "scenes", 2, 1, 1)
    with pytest.raises(InputError, match="was not made by the embedded LMM's recipe"):
        check(ReportContext(other, data, tmp_path, pytest.fail, no_progress))
    check(ReportContext(grounder, data, tmp_path, pytest.fail, no_progress))
