"""The first IDEFICS: which pictures a text sees, and checkpoints that only chat."""

from pathlib import Path

import pytest
from contract_helpers import noise_picture
from transformers.models.idefics.configuration_idefics import IdeficsConfig, IdeficsPerceiverConfig
from transformers.models.idefics.modeling_idefics import IdeficsForVisionText2Text

from flmm.attention.tracing import trace_text
from flmm.errors import InputError
from flmm.grounding.grounder import Grounder
from flmm.lmm.auto import load_lmm
from flmm.lmm.base import LMMAdapter
from flmm.lmm.families.idefics import IdeficsAdapter
from flmm.lmm.tiny_models import random_model

PICTURES = [noise_picture(), noise_picture(33, 97)]


def save(adapter: LMMAdapter, folder: Path) -> str:
    adapter.model.save_pretrained(folder)
    adapter.tokenizer.chat_template = None
    adapter.tokenizer.save_pretrained(folder)
    adapter.image_processor.save_pretrained(folder)
    return str(folder)


def test_only_the_last_picture_is_seen() -> None:
    adapter = IdeficsAdapter.build_tiny()
    trace = trace_text(adapter, adapter.build_prompt(PICTURES, "what?", "the cat"))
    first, last = (each.attention for each in trace.picture_attentions)
    assert not first.any()
    assert last.any()


def test_checkpoint_without_a_chat_template(tmp_path: Path) -> None:
    adapter = IdeficsAdapter.build_tiny()
    expected = adapter.generate(adapter.build_prompt(PICTURES, "what is it?"), 6)
    loaded = load_lmm(save(adapter, tmp_path))
    prompt = loaded.build_prompt(PICTURES, "what is it?")
    picture = "<image><fake_token_around_image>"
    assert loaded.tokenizer.decode(prompt.inputs["input_ids"][0]) == (
        f"<s>User:<fake_token_around_image>{picture * 2}what is it?<end_of_utterance>\nAssistant:"
    )
    assert loaded.generate(prompt, 6).token_ids.equal(expected.token_ids)


def test_checkpoint_with_a_perceiver_resampler_only_chats(tmp_path: Path) -> None:
    adapter = IdeficsAdapter.build_tiny()
    config = adapter.model.config
    assert isinstance(config, IdeficsConfig)
    config.use_resampler = True
    config.perceiver_config = IdeficsPerceiverConfig(
        resampler_n_latents=4, resampler_depth=1, resampler_n_heads=2, resampler_head_dim=8
    )
    adapter.model = random_model(lambda: IdeficsForVisionText2Text(config))
    loaded = load_lmm(save(adapter, tmp_path))
    for pictures in (PICTURES, PICTURES[:1], []):
        prompt = loaded.build_prompt(pictures, "what is it?")
        from_pixels = loaded.model.generate(  # type: ignore[operator]
            **loaded.collate([prompt], keep_pixels=True).inputs, max_new_tokens=6, do_sample=False
        )
        assert loaded.generate(prompt, 6).text == loaded.decode(from_pixels[0, prompt.length :])
    assert not Grounder(loaded).chat(PICTURES[0], "what is it?", max_new_tokens=6).phrases
    with pytest.raises(InputError, match="its perceiver resampler makes each latent of the whole"):
        Grounder(loaded).ground(PICTURES[0], "The cat.")


def test_answer_ends_where_an_utterance_does() -> None:
    adapter = IdeficsAdapter.build_tiny()
    assert adapter.tokenizer.convert_tokens_to_ids("<end_of_utterance>") in adapter.eos_token_ids
    assert adapter.tokenizer.eos_token_id in adapter.eos_token_ids
