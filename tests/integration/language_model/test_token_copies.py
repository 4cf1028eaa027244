"""Copies of the LLaVA of a language model that are trained to say ``<SEG>``."""

from pathlib import Path

import numpy as np
import pytest
import torch
from language_model.token_comparison import HeadScenes, compare_masks, render_masks
from language_model.token_copies import VOCABULARY_TOKEN, TokenCopy, Tuning, make_copy
from language_model_fixtures import save_tiny_lmm
from PIL import Image
from tiny_grounding import save_tiny_head
from torch import Tensor, nn

from flmm.data.readers.sticker_scenes import read_sticker_scenes
from flmm.grounding.grounder import Grounder
from flmm.lmm.auto import load_lmm
from flmm.lmm.base import LMMAdapter
from flmm.progress import no_progress
from flmm.report.segmentation_token.token_training import (
    TrainingScheme,
    UncachedScenes,
    append_token_to_phrases,
    build_token_batch,
    compute_token_loss,
)
from flmm.stickers.draw import draw
from flmm.stickers.language import caption_turn
from flmm.stickers.scene import generate_scene

SCENES = UncachedScenes(2)
STEPS = 3
DRAWING = draw(generate_scene(0), 320)
PICTURE = Image.fromarray(DRAWING.picture)
QUESTIONS = ("Where is the grass?", "Where is the cat on the left?")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> LMMAdapter:
    return load_lmm(str(save_tiny_lmm(tmp_path_factory.mktemp("lmm"))))


@pytest.fixture(scope="module")
def source_weights(source: LMMAdapter) -> dict[str, Tensor]:
    """Return the LMM's weights before it is copied."""
    return clone_weights(source.model)


@pytest.fixture(scope="module", params=Tuning)
def tuning(request: pytest.FixtureRequest) -> Tuning:
    tuning = request.param
    assert isinstance(tuning, Tuning)
    return tuning


@pytest.fixture(scope="module")
def copy(
    source: LMMAdapter, source_weights: dict[str, Tensor], tuning: Tuning,
    tmp_path_factory: pytest.TempPathFactory,
) -> TokenCopy:  # fmt: skip
    """Return a trained copy."""
    assert source_weights
    return make_copy(source, tuning, SCENES, tmp_path_factory.mktemp("copies"), STEPS)


def clone_weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in module.state_dict().items()}


def find_changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name, weight in before.items() if not weight.equal(after[name])}


def compute_loss(copy: TokenCopy) -> float:
    batch = build_token_batch(
        copy, TrainingScheme.GLAMM, [DRAWING, DRAWING], np.random.default_rng(0)
    )
    with torch.no_grad():
        return float(compute_token_loss(copy, batch))


def test_training_lowers_the_loss_of_what_is_trained(
    source: LMMAdapter, source_weights: dict[str, Tensor], tuning: Tuning, copy: TokenCopy
) -> None:
    untrained = TokenCopy(source, tuning)
    assert compute_loss(copy) < compute_loss(untrained)
    changed = find_changed(clone_weights(untrained), clone_weights(copy))
    frozen = ("lmm.model.vision_tower.", "refiner.sam.vision_encoder.")
    assert not [name for name in changed if name.startswith(frozen)]
    projector = clone_weights(untrained.lmm.model.multi_modal_projector)
    assert {f"lmm.model.multi_modal_projector.{name}" for name in projector} <= changed
    assert {name for name in changed if name.startswith("projection.")}
    assert {name for name in changed if name.startswith("refiner.sam.mask_decoder.")}
    llm = {name for name in changed if name.startswith("lmm.model.language_model.")}
    matrices = {name.split(".layers.")[1] for name in llm if "_proj" in name}
    assert len(matrices) == 3 * 7 * (2 if tuning is Tuning.LORA else 1)
    adapted = [name for name in llm if "lora_" in name or "trainable_tokens_" in name]
    assert adapted == ([] if tuning is Tuning.ALL else list(llm))
    # The copied LMM does not change.
    assert not find_changed(source_weights, source.model.state_dict())


def test_a_resumed_training_ends_as_an_undisturbed_one(
    source: LMMAdapter, tuning: Tuning, copy: TokenCopy, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("flmm.embedded_model.recipe.training_loop._CHECKPOINT_EVERY", 1)

    def stop(done: int, _total: int, _what: str) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_copy(source, tuning, SCENES, tmp_path, STEPS, stop)
    steps: list[int] = []
    resumed = make_copy(
        source, tuning, SCENES, tmp_path, STEPS, lambda done, *_: steps.append(done)
    )
    assert steps == [2, 3]
    assert not find_changed(copy.state_dict(), resumed.state_dict())
    # A copy that is there is not trained again, and its optimizer's state is gone.
    fail = lambda *_: pytest.fail("it is trained again")  # noqa: E731
    loaded = make_copy(source, tuning, SCENES, tmp_path, STEPS, fail)
    assert not find_changed(copy.state_dict(), loaded.state_dict())
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


def test_masks_are_the_pictures_size_and_of_their_own_question(copy: TokenCopy) -> None:
    picture = PICTURE.resize((200, 120))
    masks = copy.predict_masks(picture, QUESTIONS)
    assert masks.shape == (2, 120, 200)
    assert masks.dtype == torch.bool
    for question, mask in zip(QUESTIONS, masks, strict=True):
        (alone,) = copy.predict_masks(picture, [question])
        assert (alone != mask).float().mean() < 1e-3


def test_the_adapter_generates_as_the_copy_would(copy: TokenCopy) -> None:
    adapter = copy.build_adapter()
    prompt = adapter.build_prompt(PICTURE, QUESTIONS[0])
    inputs = prompt.inputs
    with torch.no_grad():
        expected = copy.lmm(**inputs).logits
        torch.testing.assert_close(adapter.model(**inputs).logits, expected, rtol=1e-4, atol=1e-4)
    answer = copy.lmm.generate(**inputs, max_new_tokens=12, do_sample=False)
    assert adapter.generate(prompt, 12).token_ids.equal(answer[0, prompt.length :])
    output = adapter.model.get_output_embeddings()  # type: ignore[no-untyped-call]
    assert isinstance(output, nn.Linear)
    embeddings = adapter.model.get_input_embeddings()
    assert isinstance(embeddings, nn.Embedding)
    assert output.weight is embeddings.weight
    # Training may go on with a copy that an adapter was built of.
    assert any(weight.requires_grad for weight in copy.build_trained_module().parameters())


def test_training_tokens_are_those_of_the_adapters_prompts(
    source: LMMAdapter, copy: TokenCopy
) -> None:
    adapter = copy.build_adapter()
    plain = caption_turn(DRAWING.scene)
    turn = append_token_to_phrases(plain)
    texts = copy.pack_texts([DRAWING.picture], [[turn]])
    prompt = adapter.build_prompt(PICTURE, turn.question)
    *ids, end = texts.input_ids[0].tolist()
    assert {end} == adapter.eos_token_ids
    assert ids[: prompt.length] == prompt.inputs["input_ids"][0].tolist()
    torch.testing.assert_close(texts.pixel_values, prompt.inputs["pixel_values"])
    # The token is one of the vocabulary; without it, the tokens are those of the original LMM.
    assert ids.count(copy.token_id) == len(plain.mentions)
    assert copy.token_id == source.tokenizer.convert_tokens_to_ids(VOCABULARY_TOKEN)
    expected = source.build_prompt(PICTURE, plain.question, plain.answer)
    without = [token for token in ids if token != copy.token_id]
    assert without == expected.inputs["input_ids"][0].tolist()
    assert adapter.decode(torch.tensor(ids[prompt.length :])) == plain.answer


def test_masks_of_copies_are_measured_beside_the_heads(source: LMMAdapter, tmp_path: Path) -> None:
    shape = {"layers": source.layers, "heads": source.heads, "hidden_size": source.hidden_size}
    head = save_tiny_head(tmp_path / "head", source.name, **shape)
    grounder = Grounder.from_pretrained(str(head))
    first, second = (TokenCopy(source, tuning) for tuning in Tuning)
    with torch.no_grad():
        for name, weight in second.named_parameters():
            if name.startswith("refiner.sam.mask_decoder."):
                weight.add_(0.3)
    masks = compare_masks(grounder, [first, second], tmp_path, 2, no_progress)
    (things, stuff), *copies = masks.scores
    assert masks.pictures == 2
    assert things is not None
    assert stuff is not None
    assert things.phrases + stuff.phrases > 4
    assert len({*copies, (things, stuff)}) == 3
    assert [row.split(" | ")[0] for row in render_masks(masks).splitlines()[2:]] == [
        "| frozen LLaVA + head",
        "| copy, all weights",
        "| copy, LoRA",
    ]


def test_copies_learn_from_the_heads_pictures(tmp_path: Path) -> None:
    (_, sample) = read_sticker_scenes(tmp_path, 2, 0)
    with Image.open(sample.picture) as picture:
        assert np.array_equal(np.asarray(picture), HeadScenes(2).drawing(1).picture)
