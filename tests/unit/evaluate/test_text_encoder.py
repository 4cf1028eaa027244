"""Phrases compared by a text encoder."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_text_encoder import save_tiny_bert
from transformers import AutoTokenizer, BertForPreTraining

from flmm.errors import InputError
from flmm.evaluate.text_encoder import TextEncoder
from flmm.lmm.families.llava import LlavaAdapter

PHRASES = ["a dog", "the big red dog on the grass", "dog", "a hat's", "sky", "un-known words", ""]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def encoder(folder: Path) -> TextEncoder:
    return TextEncoder.from_pretrained(str(folder), "cpu")


def test_embeddings_are_means_of_each_texts_own_tokens(encoder: TextEncoder, folder: Path) -> None:
    # transformers' own model, one text at a time and so without padding.
    model, tokenizer = (
        BertForPreTraining.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    expected = []
    for phrase in PHRASES:
        inputs = tokenizer(phrase, return_tensors="pt")
        with torch.inference_mode():
            mean = model.bert(**inputs).last_hidden_state[0].mean(0)
        expected.append(mean / mean.norm())
    embeddings = encoder.embed(PHRASES)
    assert torch.allclose(embeddings, torch.stack(expected), atol=1e-5)
    similarities = embeddings @ embeddings.T
    assert similarities.min() < 0.5 < similarities[0, 2] < 1


def test_each_text_is_embedded_once_and_progress_is_told(encoder: TextEncoder) -> None:
    progress: list[tuple[int, int]] = []
    texts = [f"{number} dog" for number in range(150)] * 2
    first = encoder.embed(texts, lambda done, total, _what: progress.append((done, total)))
    assert progress == [(64, 150), (128, 150), (150, 150)]
    assert torch.equal(first[:150], first[150:])
    assert torch.equal(encoder.embed(texts, lambda *_: pytest.fail("again")), first)


def test_long_texts_are_cut_to_the_models_positions(encoder: TextEncoder) -> None:
    assert torch.isfinite(encoder.embed(["dog " * 400])).all()
    assert torch.equal(encoder.embed(["dog " * 400]), encoder.embed(["dog " * 500]))


def refusal(name: str) -> str:
    with pytest.raises(InputError) as caught:
        TextEncoder.from_pretrained(name, "cpu")
    message = str(caught.value)
    assert "\n" not in message
    assert "text encoder" in message
    return message


def test_what_is_no_text_encoder_is_refused_in_one_line(tmp_path: Path) -> None:
    assert "folder without config.json" in refusal(str(tmp_path))
    assert "name another with --text-encoder" in refusal(str(tmp_path / "missing"))
    assert "is empty" in refusal(" ")
    lmm = LlavaAdapter.build_tiny()
    lmm.model.save_pretrained(tmp_path / "lmm")
    assert refusal(str(tmp_path / "lmm"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps({"model_type": "no such"}))
    assert "model_type 'no such'" in refusal(str(tmp_path / "other"))


def test_missing_weights_are_refused_but_a_pooler(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    without = {name: weight for name, weight in weights.items() if ".pooler." not in name}
    assert len(without) < len(weights)
    save_file(without, tmp_path / "model.safetensors", metadata={"format": "pt"})
    expected = TextEncoder.from_pretrained(str(folder), "cpu").embed(PHRASES)
    assert torch.equal(TextEncoder.from_pretrained(str(tmp_path), "cpu").embed(PHRASES), expected)
    del without["bert.encoder.layer.1.output.dense.weight"]
    save_file(without, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert "lack 1 weight (encoder.layer.1.output.dense.weight)" in refusal(str(tmp_path))
