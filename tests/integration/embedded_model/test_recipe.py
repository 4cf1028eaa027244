"""Tests of the recipe on a toy budget: every stage runs and resumes, and its model is measured."""

import hashlib
import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from command import run_in_process
from PIL import Image
from torch import nn

from flmm.cli import console
from flmm.embedded_model.evaluate import measure
from flmm.embedded_model.evaluation_settings import DEFAULT_SETTING, photograph_setting
from flmm.embedded_model.evaluation_tables import print_reports
from flmm.embedded_model.recipe import cpu_attention, head_training, lmm_architecture, sam_training
from flmm.embedded_model.recipe.build import TrainingBudget, build_model
from flmm.embedded_model.recipe.lmm_training import crop_closer_look
from flmm.embedded_model.recipe.muon import orthogonalise
from flmm.embedded_model.recipe.packing import pack_conversations, text_loss
from flmm.embedded_model.recipe.training_loop import TrainingStage, train_stage
from flmm.embedded_model.recipe.vision_warm_up import LABELS, crop_around_thing, crop_number
from flmm.grounding.grounder import Grounder
from flmm.lmm.auto import load_lmm
from flmm.lmm.base import LMMAdapter
from flmm.lmm.message import Message
from flmm.progress import no_progress
from flmm.segmenters.auto import load_segmenter
from flmm.stickers.dataset import SceneDataset, build_dataset, training_style
from flmm.stickers.draw import draw
from flmm.stickers.kinds import STICKER_FOLDER
from flmm.stickers.language import Conversation, caption_turn
from flmm.stickers.questions import generate_conversation
from flmm.stickers.scene import generate_scene

TOY = TrainingBudget(
    scenes=8,
    lmm_warm_up_steps=4,
    lmm_steps=5,
    sam_warm_up_steps=1,
    sam_steps=1,
    head_steps=2,
    score_scenes=2,
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model built with a toy budget."""
    folder = tmp_path_factory.mktemp("recipe")
    build_model(folder, TOY)
    return folder


def checksum(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def test_built_model_answers_and_segments(built: Path) -> None:
    result = built / "embedded"
    grounder = Grounder.from_pretrained(result / "head", lmm=str(result / "lmm"))
    picture = draw(generate_scene(1)).picture
    answer = grounder.segment(picture, ["the lemon", "the brick wall"])
    assert [phrase.mask.shape for phrase in answer.phrases] == [(384, 384)] * 2
    assert sum(tensor.numel() for tensor in grounder.adapter.model.parameters()) <= 8_000_000


def test_second_build_trains_nothing_again(built: Path) -> None:
    files = built / "embedded" / "lmm" / "model.safetensors", built / "checkpoints" / "head.pt"
    before = [file.stat().st_mtime_ns for file in files]
    build_model(built, TOY)
    assert [file.stat().st_mtime_ns for file in files] == before


def test_head_training_does_not_change_the_lmm(built: Path, tmp_path: Path) -> None:
    adapter = load_lmm(str(built / "embedded" / "lmm"))
    sam = load_segmenter(built / "embedded" / "head" / "sam")
    head = head_training.build_head(adapter, sam)
    dataset = SceneDataset(built / "world", TOY.scenes)
    before = checksum(adapter.model), checksum(sam.vision_encoder), checksum(head.mask_decoder)
    head_training.train(adapter, head, dataset, tmp_path, 2)
    assert checksum(adapter.model) == before[0]
    assert checksum(sam.vision_encoder) == before[1]
    assert checksum(head.mask_decoder) != before[2]
    assert not any(parameter.requires_grad for parameter in adapter.model.parameters())


def test_packed_tokens_equal_the_adapters_prompt(built: Path) -> None:
    adapter: LMMAdapter = load_lmm(str(built / "embedded" / "lmm"))
    tokenizer = lmm_architecture.build_tokenizer()
    drawing = draw(generate_scene(4), 192)
    picture = Image.fromarray(drawing.picture)
    crop = crop_closer_look(drawing, 0, np.random.default_rng(0))
    first, second = generate_conversation(drawing.scene, np.random.default_rng(1))
    pixels = lmm_architecture.preprocess_pictures([drawing.picture, crop])
    packed = pack_conversations(tokenizer, pixels, [[(first, second)]])
    history = [
        Message("user", first.question, (picture, Image.fromarray(crop))),
        Message("assistant", first.answer),
    ]
    prompt = adapter.build_prompt((), second.question, second.answer, history)
    ids = prompt.inputs["input_ids"]
    assert packed.input_ids[:, : ids.shape[1]].tolist() == ids.tolist()
    torch.testing.assert_close(
        packed.pixel_values, prompt.inputs["pixel_values"], atol=1e-5, rtol=0
    )
    target_ids = [token for token in packed.targets[0].tolist() if token >= 0]
    text = tokenizer.decode(target_ids, skip_special_tokens=False)
    assert text == f"{first.answer}</s>{second.answer}</s>"


def test_packed_conversations_do_not_attend_to_each_other() -> None:
    tokenizer = lmm_architecture.build_tokenizer()
    lmm = lmm_architecture.build_lmm(tokenizer).train(False)
    scene = generate_scene(6)
    pixels = lmm_architecture.preprocess_pictures([draw(scene, 96).picture])
    patches = lmm_architecture.compute_patch_features(lmm, pixels)
    conversations = [
        (caption_turn(scene),),
        generate_conversation(scene, np.random.default_rng(2)),
        (caption_turn(generate_scene(8)),),
    ]

    def loss(texts: list[Conversation]) -> tuple[torch.Tensor, torch.Tensor]:
        batch = pack_conversations(tokenizer, pixels, [texts])
        return text_loss(lmm, batch, patches), (batch.targets >= 0).sum()

    together, total = loss(conversations)
    alone = [loss([conversation]) for conversation in conversations]
    torch.testing.assert_close(
        together * total, sum(value * count for value, count in alone), rtol=1e-4, atol=0
    )


def test_cpu_attention_equals_that_of_transformers() -> None:
    lmm = lmm_architecture.build_lmm(lmm_architecture.build_tokenizer())
    llama = lmm.model.language_model
    embeddings, weights = torch.randn(2, 2, 9, 192)
    mask = torch.zeros(2, 1, 9, 9).masked_fill_(torch.ones(9, 9).triu(1).bool(), -1e9)

    def states_and_gradients() -> list[torch.Tensor]:
        lmm.zero_grad()
        states = llama(inputs_embeds=embeddings, attention_mask=mask, use_cache=False)
        (states.last_hidden_state * weights).mean().backward()
        gradients = [parameter.grad for parameter in llama.layers.parameters()]
        return [states.last_hidden_state.detach(), *(g for g in gradients if g is not None)]

    expected = states_and_gradients()
    cpu_attention.use_cpu_attention(lmm)
    for actual, reference in zip(states_and_gradients(), expected, strict=True):
        # bfloat16 keeps eight bits.
        assert (actual - reference).norm() < 0.02 * reference.norm()


def test_crops_are_labelled_with_the_things_in_them() -> None:
    random = np.random.default_rng(0)
    seen_numbers: set[str] = set()
    for seed in range(30):
        drawing = draw(generate_scene(seed, tagged=True), 192, training_style(seed))
        crop, labels = crop_around_thing(drawing, random)
        present = {LABELS[index] for index in torch.nonzero(labels == 1)[:, 0]}
        region_ids = np.unique(crop.region_ids)
        bands = len(drawing.scene.bands)
        things = [drawing.scene.things[index - bands] for index in region_ids if index >= bands]
        kinds = {thing.kind.name for thing in things}
        assert present & kinds
        numbers = {str(thing.tag_number) for thing in things if thing.tag_number is not None}
        assert present <= kinds | numbers | {band.name for band in drawing.scene.bands}
        seen_numbers |= present & numbers
    assert len(seen_numbers) > 3


def test_number_crops_show_the_tag_that_labels_them() -> None:
    random = np.random.default_rng(0)
    for seed in range(20):
        scene = generate_scene(seed, tagged=True)
        crop, labels = crop_number(draw(scene, 320), random)
        (label,) = torch.nonzero(labels == 1)[:, 0].tolist()
        assert LABELS[label] in {str(thing.tag_number) for thing in scene.things}
        assert (labels >= 0).sum() > 3
        # The white of the tag, around the digit.
        assert (crop > 240).all(-1).sum() > 60


def test_measuring_in_two_processes_gives_the_same_reports(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(draw(generate_scene(0), 96).picture).save(tmp_path / "photograph.png")
    settings = [(DEFAULT_SETTING, 2), (photograph_setting(tmp_path), 1)]
    own, photographs = measure(built / "embedded", settings, no_progress, calibration_scenes=1)
    open_files = [len(os.listdir("/dev/fd"))]

    def count_files(_done: int, _total: int, _what: str) -> None:
        open_files.append(len(os.listdir("/dev/fd")))

    again, _ = measure(built / "embedded", settings, count_files, calibration_scenes=1, processes=2)
    assert again == own
    assert max(open_files) < open_files[0] + 30, "a scene's results should hold no open files"
    assert "follow up" in own.words.answers
    assert own.references["refined"].stuff_mean is not None
    assert photographs.references["refined"].stuff_mean is None
    assert photographs.words.all_answers is photographs.absent_refused is None
    print_reports([own, photographs], as_json=False)
    first, second = capsys.readouterr().out.split("on photographs")
    assert "questions: follow up" in first
    assert "questions" not in second
    assert "–" in second


def test_evaluate_command_measures_all_given_settings(
    built: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = partial(measure, calibration_scenes=1)
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr("flmm.embedded_model.evaluate.measure", quick)
    options = ["--model", str(built / "embedded"), "--scenes", "1", "--processes", "1", "--json"]
    ended = run_in_process(
        ["stickers", "evaluate", *options, "--artwork", str(STICKER_FOLDER), "--larger"], capsys
    )
    assert ended.code == 0, ended.err
    own, same, larger = json.loads(ended.out)
    assert own["references"] == same["references"]
    assert larger["name"] == "2x larger scenes"
    assert "flmm: 1 of 1, 0:00:00 left: choosing thresholds\n" in ended.progress
    ended = run_in_process(["stickers", "evaluate", *options, "--photographs", str(built)], capsys)
    assert ended.code == 2
    assert "has no .jpg or .png file" in ended.err
    assert ended.err.count("\n") == 1


def test_dataset_is_drawn_once_and_leaves_no_partial_files(tmp_path: Path) -> None:
    dataset = build_dataset(tmp_path, 3, workers=1)
    (pictures,) = tmp_path.glob("pictures-*.npy")
    before = pictures.stat().st_mtime_ns
    assert build_dataset(tmp_path, 2, workers=1).count == 2
    assert pictures.stat().st_mtime_ns == before
    assert build_dataset(tmp_path, 4, workers=1).count == 4
    assert not list(tmp_path.glob(".*partial"))
    again = draw(generate_scene(2), 320, training_style(2))
    assert (dataset.picture(2) == again.picture).all()


def _toy_stage(
    module: nn.Module, steps: int, fail_at: int | None = None
) -> TrainingStage[torch.Tensor]:
    def batches(step: int) -> list[torch.Tensor]:
        if step == fail_at:
            raise TimeoutError
        return [torch.full((2, 4), float(step % 7))]

    return TrainingStage(
        "toy", module, steps, batches, lambda batch: module(batch).square().mean(), 1e-3
    )


def test_resumed_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    def module() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1))

    uninterrupted, interrupted = module(), module()
    train_stage(_toy_stage(uninterrupted, 600), tmp_path / "uninterrupted")
    with pytest.raises(TimeoutError):
        train_stage(_toy_stage(interrupted, 600, fail_at=400), tmp_path / "interrupted")
    resumed = module()
    train_stage(_toy_stage(resumed, 600), tmp_path / "interrupted")
    assert checksum(resumed) == checksum(uninterrupted)


def test_training_stops_when_the_loss_is_not_finite(tmp_path: Path) -> None:
    stage = _toy_stage(nn.Linear(4, 1), 5)
    broken = replace(stage, loss=lambda batch: stage.module(batch).mean() * float("nan"))
    with pytest.raises(FloatingPointError, match="toy: loss nan at step 0"):
        train_stage(broken, tmp_path)
    assert not list(tmp_path.glob("*.pt"))


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (8, 8)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(3, *shape)))
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_dense_offsets_lead_to_a_things_centre() -> None:
    drawing = draw(generate_scene(9), 192)
    thing, down, across, _ = sam_training.dense_targets(drawing)
    row, column = (int(i) for i in (thing > 0.9).nonzero()[0])
    y = (row + 0.5) / sam_training.MASK_SIZE + float(down[row, column]) / 4
    x = (column + 0.5) / sam_training.MASK_SIZE + float(across[row, column]) / 4
    assert any(abs(each.x - x) + abs(each.y - y) < 1e-3 for each in drawing.scene.things)
