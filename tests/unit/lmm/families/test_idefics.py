"""The first IDEFICS: which pictures a text sees, and checkpoints that cannot be recorded."""

from pathlib import Path

import pytest
from contract_helpers import noise_picture
from transformers.models.idefics.configuration_idefics import IdeficsConfig, IdeficsPerceiverConfig
from transformers.models.idefics.modeling_idefics import IdeficsForVisionText2Text

from flmm.attention.tracing import trace_text
from flmm.errors import InputError
from flmm.lmm.auto import load_lmm
from flmm.lmm.base import LMMAdapter
from flmm.lmm.families.idefics import IdeficsAdapter

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


def test_perceiver_resampler_is_refused(tmp_path: Path) -> None:
    adapter = IdeficsAdapter.build_tiny()
    config = adapter.model.config
    assert isinstance(config, IdeficsConfig)
    config.use_resampler = True
    config.perceiver_config = IdeficsPerceiverConfig(
        resampler_n_latents=4, resampler_depth=1, resampler_n_heads=2, resampler_head_dim=8
    )
    adapter.model = IdeficsForVisionText2Text(config)
    name = save(adapter, tmp_path)
    with pytest.raises(InputError, match="latents of a perceiver resampler"):
        load_lmm(name)
