"""The LLaVA of a text-only language model: flmm reads it, and only its projector learns."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from language_model import assembly, projector_training
from language_model.assembly import split_as_smollm2
from language_model.packing import IGNORED, compute_last_hidden_states, pack_prompts
from language_model_fixtures import build_tiny_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from torch.nn import functional
from transformers import BatchEncoding
from transformers.models.aya_vision.modeling_aya_vision import AyaVisionForConditionalGeneration
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from flmm.embedded_model.recipe.lmm_architecture import preprocess_pictures
from flmm.embedded_model.recipe.packing import answer_loss
from flmm.head.weights import fingerprint_weights
from flmm.lmm.auto import load_lmm
from flmm.lmm.base import LMMAdapter
from flmm.progress import no_progress
from flmm.stickers.dataset import SceneDataset, build_dataset
from flmm.stickers.draw import draw
from flmm.stickers.scene import generate_scene

pytest_plugins = ("language_model_fixtures",)


@pytest.fixture
def dataset(tmp_path: Path) -> SceneDataset:
    return build_dataset(tmp_path / "world", 12, workers=1)


@pytest.fixture(autouse=True)
def _same_number_of_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def _model(adapter: LMMAdapter) -> AyaVisionForConditionalGeneration:
    assert isinstance(adapter.model, AyaVisionForConditionalGeneration)
    return adapter.model


def _text_loss(adapter: LMMAdapter) -> Tensor:
    """Return the packed loss of one scene's texts."""
    prompts = projector_training.build_prompts(
        adapter, draw(generate_scene(5)), np.random.default_rng(0)
    )
    batch = pack_prompts([prompts], _end(adapter))
    return answer_loss(_model(adapter), batch, compute_last_hidden_states(_model(adapter), batch))


def _end(adapter: LMMAdapter) -> int:
    assert isinstance(adapter.tokenizer.eos_token_id, int)
    return adapter.tokenizer.eos_token_id


def test_the_language_model_stays_as_it_was(folder: Path, llm: LlamaForCausalLM) -> None:
    adapter = load_lmm(str(folder))
    answer = adapter.generate(adapter.build_prompt((), "what is it?"), 8).token_ids
    chat = [{"role": "user", "content": "what is it?"}]
    inputs = adapter.tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    assert isinstance(inputs, BatchEncoding)
    expected = llm.generate(**inputs, max_new_tokens=8, do_sample=False, pad_token_id=0)
    assert isinstance(expected, Tensor)
    assert answer.equal(expected[0, inputs["input_ids"].shape[1] :])


def test_line_breaks_before_a_list_are_one_token() -> None:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: index for index, piece in enumerate([*letters, "ĊĊ"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("Ċ", "Ċ")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert tokenizer.encode("a\n\n1.").tokens == ["a", "Ċ", "Ċ", "1", "."]
    split_as_smollm2(tokenizer)
    # By llama.cpp, which reads SmolLM2's file.
    for text, tokens in {
        "a\n\n1.": ["a", "ĊĊ", "1", "."],
        "a\n\nb": ["a", "Ċ", "Ċ", "b"],
        "a 24": ["a", "Ġ", "2", "4"],
    }.items():
        assert tokenizer.encode(text).tokens == tokens


def test_smollm2_is_read_with_its_own_way_to_split(
    llm: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = build_tiny_tokenizer()
    llm.config.quantization_config = {}
    package = SimpleNamespace(submodule_search_locations=["smollm2"])
    monkeypatch.setattr(assembly, "find_spec", lambda _: package)
    for name, read in (("AutoModelForCausalLM", llm), ("AutoTokenizer", tokenizer)):
        reader = SimpleNamespace(from_pretrained=lambda *_, read=read, **__: read)
        monkeypatch.setattr(assembly, name, reader)
    loaded, own = assembly.load_smollm2()
    assert fingerprint_weights(loaded) == fingerprint_weights(llm)
    pieces = own.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a\n\n1")
    assert [piece for piece, _ in pieces] == ["a", "ĊĊ", "1"]


def test_image_tokens_lie_where_the_vision_tower_puts_them(folder: Path) -> None:
    adapter = load_lmm(str(folder))
    drawing = draw(generate_scene(5))
    prompts = projector_training.build_prompts(adapter, drawing, np.random.default_rng(0))
    ((view,),) = prompts[0].picture_views
    assert view.geometry.grid == (10, 10)
    assert view.token_positions.flatten().tolist() == list(
        range(int(view.token_positions[0, 0]), int(view.token_positions[0, 0]) + 100)
    )
    # The pictures that the projector learns from first are those that it gets later.
    assert prompts[0].inputs["pixel_values"].equal(preprocess_pictures([drawing.picture]))


def test_packed_texts_have_the_loss_of_separate_ones(folder: Path) -> None:
    adapter = load_lmm(str(folder))
    prompts = projector_training.build_prompts(
        adapter, draw(generate_scene(5)), np.random.default_rng(0)
    )
    losses = []
    for prompt in prompts:
        ids = torch.cat([prompt.inputs["input_ids"][0], torch.tensor([_end(adapter)])])
        logits = adapter.model(**prompt.inputs).logits[0, prompt.answer_start - 1 :]
        answer = ids[prompt.answer_start :]
        losses.append(functional.cross_entropy(logits, answer, reduction="none"))
    batch = pack_prompts([prompts], _end(adapter))
    assert int((batch.targets != IGNORED).sum()) == sum(len(loss) for loss in losses)
    assert float(_text_loss(adapter)) == pytest.approx(float(torch.cat(losses).mean()), rel=1e-4)


def test_only_the_projector_learns(folder: Path, dataset: SceneDataset, tmp_path: Path) -> None:
    adapter = load_lmm(str(folder))
    lmm = _model(adapter)
    before = {name: value.clone() for name, value in lmm.state_dict().items()}
    loss = float(_text_loss(adapter))
    projector_training.train(lmm, adapter, dataset, tmp_path / "checkpoints", 2, 4, no_progress)
    changed = {name for name, value in lmm.state_dict().items() if not value.equal(before[name])}
    assert changed
    assert all("multi_modal_projector" in name for name in changed)
    assert float(_text_loss(adapter)) < loss
    assert not any(parameter.requires_grad for parameter in lmm.parameters())
