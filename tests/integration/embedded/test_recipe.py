"""The recipe at a toy budget: every stage runs, resumes, leaves the LMM alone, and is measured."""

import hashlib
import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from command import in_process
from PIL import Image
from torch import nn

from flmm.embedded.evaluate import measure
from flmm.embedded.evaluation_settings import DEFAULT_SETTING, photograph_setting
from flmm.embedded.evaluation_tables import print_reports
from flmm.embedded.recipe import cpu_attention as attention
from flmm.embedded.recipe import head_training as head_recipe
from flmm.embedded.recipe import lmm_architecture as language_model
from flmm.embedded.recipe import sam_training as segmenter
from flmm.embedded.recipe.build import TrainingBudget, build_model
from flmm.embedded.recipe.lmm_training import crop_closer_look
from flmm.embedded.recipe.muon import orthogonalise
from flmm.embedded.recipe.packing import pack_conversations, text_loss
from flmm.embedded.recipe.training_loop import TrainingStage, train_stage
from flmm.embedded.recipe.vision_warm_up import LABELS, crop_around_thing, crop_number
from flmm.grounding.grounder import Grounder
from flmm.lmm.auto import load_lmm
from flmm.lmm.base import LMMAdapter
from flmm.lmm.prompt import Message
from flmm.masks.refiner import load_sam
from flmm.progress import no_progress
from flmm.stickers.dataset import SceneDataset, build_dataset, training_style
from flmm.stickers.draw import draw
from flmm.stickers.kinds import STICKER_FOLDER
from flmm.stickers.language import Conversation, caption_turn
from flmm.stickers.questions import generate_conversation
from flmm.stickers.scene import generate_scene

TOY = TrainingBudget(
    scenes=8, lmm_warm_up_steps=4, lmm_steps=5, sam_warm_up_steps=1, sam_steps=1, head_steps=2
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


def test_built_again_nothing_is_trained_twice(built: Path) -> None:
    lmm = built / "embedded" / "lmm" / "model.safetensors"
    before = lmm.stat().st_mtime_ns, (built / "checkpoints" / "head.pt").stat().st_mtime_ns
    build_model(built, TOY)
    assert before == (
        lmm.stat().st_mtime_ns,
        (built / "checkpoints" / "head.pt").stat().st_mtime_ns,
    )


def test_the_lmm_is_untouched_by_head_training(built: Path, tmp_path: Path) -> None:
    adapter = load_lmm(str(built / "embedded" / "lmm"))
    sam = load_sam(built / "embedded" / "head" / "sam")
    head = head_recipe.build_head(adapter, sam)
    world = SceneDataset(built / "world", TOY.scenes)
    before = checksum(adapter.model), checksum(sam.vision_encoder), checksum(head.mask_decoder)
    head_recipe.train(adapter, head, world, tmp_path, 2)
    assert checksum(adapter.model) == before[0]
    assert checksum(sam.vision_encoder) == before[1]
    assert checksum(head.mask_decoder) != before[2]
    assert not any(parameter.requires_grad for parameter in adapter.model.parameters())


def test_training_text_is_what_the_adapter_reads(built: Path) -> None:
    adapter: LMMAdapter = load_lmm(str(built / "embedded" / "lmm"))
    tokenizer = language_model.build_tokenizer()
    drawing = draw(generate_scene(4), 192)
    picture = Image.fromarray(drawing.picture)
    closer = crop_closer_look(drawing, 0, np.random.default_rng(0))
    first, second = generate_conversation(drawing.scene, np.random.default_rng(1))
    pixels = language_model.preprocess_pictures([drawing.picture, closer])
    packed = pack_conversations(tokenizer, pixels, [[(first, second)]])
    history = [
        Message("user", first.question, (picture, Image.fromarray(closer))),
        Message("assistant", first.answer),
    ]
    prompt = adapter.build_prompt((), second.question, second.answer, history)
    ids = prompt.inputs["input_ids"]
    assert packed.input_ids[:, : ids.shape[1]].tolist() == ids.tolist()
    torch.testing.assert_close(
        packed.pixel_values, prompt.inputs["pixel_values"], atol=1e-5, rtol=0
    )
    said = [token for token in packed.targets[0].tolist() if token >= 0]
    text = tokenizer.decode(said, skip_special_tokens=False)
    assert text == f"{first.answer}</s>{second.answer}</s>"


def test_packed_conversations_do_not_see_one_another() -> None:
    tokenizer = language_model.build_tokenizer()
    lmm = language_model.build_lmm(tokenizer).train(False)
    scene = generate_scene(6)
    pixels = language_model.preprocess_pictures([draw(scene, 96).picture])
    patches = language_model.compute_patch_features(lmm, pixels)
    told = [
        (caption_turn(scene),),
        generate_conversation(scene, np.random.default_rng(2)),
        (caption_turn(generate_scene(8)),),
    ]

    def loss(texts: list[Conversation]) -> tuple[torch.Tensor, torch.Tensor]:
        batch = pack_conversations(tokenizer, pixels, [texts])
        return text_loss(lmm, batch, patches), (batch.targets >= 0).sum()

    together, total = loss(told)
    alone = [loss([one]) for one in told]
    torch.testing.assert_close(
        together * total, sum(value * count for value, count in alone), rtol=1e-4, atol=0
    )


def test_training_attends_as_transformers_does() -> None:
    lmm = language_model.build_lmm(language_model.build_tokenizer())
    language_model_part = lmm.model.language_model
    embeddings, wanted = torch.randn(2, 2, 9, 192)
    mask = torch.zeros(2, 1, 9, 9).masked_fill_(torch.ones(9, 9).triu(1).bool(), -1e9)

    def result() -> list[torch.Tensor]:
        lmm.zero_grad()
        states = language_model_part(inputs_embeds=embeddings, attention_mask=mask, use_cache=False)
        (states.last_hidden_state * wanted).mean().backward()
        gradients = [one.grad for one in language_model_part.layers.parameters()]
        return [states.last_hidden_state.detach(), *(g for g in gradients if g is not None)]

    usual = result()
    attention.use_cpu_attention(lmm)
    for one, other in zip(result(), usual, strict=True):
        # bfloat16 keeps eight bits.
        assert (one - other).norm() < 0.02 * other.norm()


def test_crops_are_labelled_by_what_they_show() -> None:
    random = np.random.default_rng(0)
    read: set[str] = set()
    for seed in range(30):
        drawing = draw(generate_scene(seed, tagged=True), 192, training_style(seed))
        crop, labels = crop_around_thing(drawing, random)
        there = {LABELS[index] for index in torch.nonzero(labels == 1)[:, 0]}
        owners = np.unique(crop.region_ids)
        bands = len(drawing.scene.bands)
        things = [drawing.scene.things[owner - bands] for owner in owners if owner >= bands]
        kinds = {thing.kind.name for thing in things}
        assert there & kinds
        numbers = {str(thing.tag_number) for thing in things if thing.tag_number is not None}
        assert there <= kinds | numbers | {band.name for band in drawing.scene.bands}
        read |= there & numbers
    assert len(read) > 3


def test_numbers_are_cut_out_with_their_tags() -> None:
    random = np.random.default_rng(0)
    for seed in range(20):
        scene = generate_scene(seed, tagged=True)
        crop, labels = crop_number(draw(scene, 320), random)
        (number,) = torch.nonzero(labels == 1)[:, 0].tolist()
        assert LABELS[number] in {str(thing.tag_number) for thing in scene.things}
        assert (labels >= 0).sum() > 3
        # The white of the tag, around the digit.
        assert (crop > 240).all(-1).sum() > 60


def test_every_figure_is_measured_alone_or_side_by_side(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_picture = Image.fromarray(draw(generate_scene(0), 96).picture)
    draw_picture.save(tmp_path / "photograph.png")
    settings = [(DEFAULT_SETTING, 2), (photograph_setting(tmp_path), 1)]
    own, photographs = measure(built / "embedded", settings, no_progress, calibration_scenes=2)
    files = [len(os.listdir("/dev/fd"))]

    def counting(_done: int, _total: int, _what: str) -> None:
        files.append(len(os.listdir("/dev/fd")))

    again, _ = measure(built / "embedded", settings, counting, calibration_scenes=2, processes=2)
    assert again == own
    assert max(files) < files[0] + 30, "a scene's results should hold no open files"
    assert "follow up" in own.words.answers
    assert own.references["refined"].stuff_mean is not None
    assert photographs.references["refined"].stuff_mean is None
    assert photographs.words.all_answers is photographs.absent_refused is None
    print_reports([own, photographs], as_json=False)
    first, second = capsys.readouterr().out.split("on photographs")
    assert "questions: follow up" in first
    assert "questions" not in second
    assert "–" in second


def test_settings_are_measured_by_one_command(
    built: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = partial(measure, calibration_scenes=1)
    monkeypatch.setattr("flmm.embedded.evaluate.measure", quick)
    options = ["--model", str(built / "embedded"), "--scenes", "1", "--processes", "1", "--json"]
    ended = in_process(
        ["stickers", "evaluate", *options, "--artwork", str(STICKER_FOLDER), "--larger"], capsys
    )
    assert ended.code == 0, ended.err
    own, same, larger = json.loads(ended.out)
    assert own["references"] == same["references"]
    assert larger["name"] == "2x larger scenes"
    assert "flmm: 1 of 1: choosing thresholds" in ended.err
    ended = in_process(["stickers", "evaluate", *options, "--photographs", str(built)], capsys)
    assert ended.code == 2
    assert "has no .jpg or .png file" in ended.err
    assert ended.err.count("\n") == 1


def test_world_is_drawn_once_and_never_half(tmp_path: Path) -> None:
    world = build_dataset(tmp_path, 3, workers=1)
    (pictures,) = tmp_path.glob("pictures-*.npy")
    stamp = pictures.stat().st_mtime_ns
    assert build_dataset(tmp_path, 2, workers=1).count == 2
    assert pictures.stat().st_mtime_ns == stamp
    assert build_dataset(tmp_path, 4, workers=1).count == 4
    assert not list(tmp_path.glob(".*partial"))
    again = draw(generate_scene(2), 320, training_style(2))
    assert (world.picture(2) == again.picture).all()


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


def test_interrupted_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    def module() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1))

    straight, interrupted = module(), module()
    train_stage(_toy_stage(straight, 600), tmp_path / "straight")
    with pytest.raises(TimeoutError):
        train_stage(_toy_stage(interrupted, 600, fail_at=400), tmp_path / "interrupted")
    resumed = module()
    train_stage(_toy_stage(resumed, 600), tmp_path / "interrupted")
    assert checksum(resumed) == checksum(straight)


def test_a_loss_that_is_no_number_stops_training(tmp_path: Path) -> None:
    fit = _toy_stage(nn.Linear(4, 1), 5)
    broken = replace(fit, loss=lambda batch: fit.module(batch).mean() * float("nan"))
    with pytest.raises(FloatingPointError, match="toy: loss nan at step 0"):
        train_stage(broken, tmp_path)
    assert not list(tmp_path.glob("*.pt"))


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (8, 8)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(3, *shape)))
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_dense_targets_point_at_the_things() -> None:
    drawing = draw(generate_scene(9), 192)
    thing, down, across, _ = segmenter.dense_targets(drawing)
    row, column = (int(i) for i in (thing > 0.9).nonzero()[0])
    y = (row + 0.5) / segmenter.MASK_SIZE + float(down[row, column]) / 4
    x = (column + 0.5) / segmenter.MASK_SIZE + float(across[row, column]) / 4
    assert any(abs(t.x - x) + abs(t.y - y) < 1e-3 for t in drawing.scene.things)
