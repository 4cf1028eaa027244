"""Copies of the LMM that are trained to say ``<SEG>``: all weights of the LLM, or LoRA on them.

Both vision encoders stay frozen; the projector, the MLP from the token's state to SAM's prompt, and
SAM's prompt encoder and mask decoder are trained in both.
"""

import shutil
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from enum import StrEnum
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast
from transformers.models.aya_vision.modeling_aya_vision import AyaVisionForConditionalGeneration

from flmm.atomic_write import atomic_write
from flmm.embedded_model.recipe.lmm_architecture import find_token_id
from flmm.embedded_model.recipe.packing import TextBatch
from flmm.head.weights import fingerprint_weights
from flmm.lmm.base import LMMAdapter
from flmm.lmm.generic.adapter import GenericAdapter
from flmm.lmm.prompt import Prompt
from flmm.progress import ProgressCallback, no_progress
from flmm.report.context import key_digest
from flmm.report.segmentation_token.token_model import (
    SEG_TOKEN,
    TokenModel,
    set_to_mean_embedding,
)
from flmm.report.segmentation_token.token_training import Scenes, TrainingScheme, train
from flmm.segmenters.auto import load_segmenter
from flmm.stickers.language import Turn
from language_model.packing import compute_last_hidden_states, pack_prompts

VOCABULARY_TOKEN = "<gh_stars>"
"""The special token of SmolLM2's vocabulary that is ``<SEG>``: nothing is added or resized.

It is one of those that SmolLM2 never learned. Those have one embedding, the marks around pictures
too, so it gets another to start from.
"""
LEARNING_RATE = 3e-4
"""LISA's, as are rank and alpha."""
_RANK, _ALPHA = 8, 16
_LORA_MODULES = r".*\.language_model\..*\.(q|k|v|o|gate|up|down)_proj"


class Tuning(StrEnum):
    """Which weights of a copy's LLM are trained."""

    ALL = "all weights"
    LORA = "LoRA"
    """Those of its projections in attention and MLPs at a low rank, and the token's embedding.

    LISA adapts the projections to queries and values alone, and trains all embeddings. Its dropout
    is left out: with it, a run that was stopped would not go on as one that was not.
    """


class TokenCopy(TokenModel):
    """A copy of an LMM of ``assembly``'s form, with the token, and the embedded SAM as it was.

    Args:
        source: the LMM, which is not changed; its vocabulary has ``VOCABULARY_TOKEN``.
        tuning: which weights of its LLM are trained.
    """

    lmm: AyaVisionForConditionalGeneration

    def __init__(self, source: LMMAdapter, tuning: Tuning) -> None:
        assert isinstance(source, GenericAdapter)
        processor, lmm = deepcopy(source.processor), deepcopy(source.model)
        assert isinstance(lmm, AyaVisionForConditionalGeneration)
        tokenizer = processor.tokenizer
        assert isinstance(tokenizer, PreTrainedTokenizerFast)
        lmm.to("cpu", torch.float32)  # type: ignore[arg-type]
        # lstrip takes in the blank before it, so that the words around it keep their tokens.
        tokenizer.add_tokens(
            [AddedToken(VOCABULARY_TOKEN, lstrip=True, special=True)], special_tokens=True
        )
        token_id = find_token_id(tokenizer, VOCABULARY_TOKEN)
        assert token_id < lmm.config.get_text_config().vocab_size
        set_to_mean_embedding(lmm, token_id)
        super().__init__(lmm, token_id, load_segmenter("embedded:sam"))
        self.tokenizer = tokenizer
        self._source, self._processor = source, processor
        self._name = f"copy of {source.name}, {tuning}"
        # In a tuple, so that the LLM's weights are not part of this module twice.
        self._peft_model: tuple[PeftModel, ...] = ()
        if tuning is Tuning.LORA:
            self._peft_model = (_add_lora(lmm, token_id),)
        else:
            lmm.model.language_model.requires_grad_(True)
        lmm.model.multi_modal_projector.requires_grad_(True)
        self._trained = {
            name: weight for name, weight in self.named_parameters() if weight.requires_grad
        }

    def build_adapter(self) -> GenericAdapter:
        """Build an adapter for generation with the copy; that of LoRA has merged weights."""
        lmm = self.lmm
        for peft_model in self._peft_model:
            lmm = deepcopy(peft_model).merge_and_unload()
        return GenericAdapter(lmm, self._processor, self._name)

    def build_trained_module(self) -> nn.Module:
        return _TrainedParameters(self._trained)

    def pack_texts(
        self, pictures: Sequence[NDArray[np.uint8]], turns: Sequence[Sequence[Turn]]
    ) -> TextBatch:
        prompts = []
        for picture, row in zip(pictures, turns, strict=True):
            questions = [(turn.question, None) for turn in row]
            asked = self._source.build_prompts(Image.fromarray(picture), questions)
            prompts.append(
                [self._append(prompt, turn.answer) for prompt, turn in zip(asked, row, strict=True)]
            )
        end = self.tokenizer.eos_token_id
        assert isinstance(end, int)
        return pack_prompts(prompts, end)

    def _append(self, prompt: Prompt, answer: str) -> Prompt:
        """Return the prompt with an answer's tokens; prompts take no text with special tokens."""
        text = answer.replace(SEG_TOKEN, VOCABULARY_TOKEN)
        answer_ids = torch.tensor([self.tokenizer.encode(text, add_special_tokens=False)])
        input_ids = torch.cat([prompt.inputs["input_ids"], answer_ids], dim=1)
        return replace(prompt, inputs={**prompt.inputs, "input_ids": input_ids})

    def compute_states(self, texts: TextBatch) -> Tensor:
        return compute_last_hidden_states(self.lmm, texts)

    def save_trained(self, file: Path) -> None:
        """Save the trained weights as safetensors."""
        with atomic_write(file) as partial:
            save_file({name: weight.detach() for name, weight in self._trained.items()}, partial)

    @torch.no_grad()
    def load_trained(self, file: Path) -> None:
        """Load weights that ``save_trained`` saved."""
        saved = load_file(file)
        assert saved.keys() == self._trained.keys()
        for name, weight in self._trained.items():
            weight.copy_(saved[name])


def _add_lora(lmm: AyaVisionForConditionalGeneration, token_id: int) -> PeftModel:
    torch.manual_seed(0)
    config = LoraConfig(
        r=_RANK, lora_alpha=_ALPHA, target_modules=_LORA_MODULES,
        trainable_token_indices={"embed_tokens": [token_id]},
    )  # fmt: skip
    peft_model = get_peft_model(lmm, config)
    assert isinstance(peft_model, PeftModel)
    return peft_model


class _TrainedParameters(nn.Module):
    """Trained parameters alone, in one level, so that ``train_stage`` takes AdamW for all.

    LISA does too, and Muon for all of SmolLM2's matrices takes longer than the rest of a step.
    """

    def __init__(self, parameters: dict[str, nn.Parameter]) -> None:
        super().__init__()
        for name, parameter in parameters.items():
            parameter.requires_grad = True
            self.register_parameter(name.replace(".", "/"), parameter)


def name_copy(tuning: Tuning) -> str:
    """Return a copy's name in tables."""
    return f"copy, {tuning}"


def make_copy(
    source: LMMAdapter,
    tuning: Tuning,
    scenes: Scenes,
    folder: Path,
    steps: int,
    on_progress: ProgressCallback = no_progress,
) -> TokenCopy:
    """Train a copy in GLaMM's way, or load it if ``folder`` has it.

    A training that was stopped goes on from its checkpoint.

    Args:
        source: the LMM.
        tuning: which weights of its LLM are trained.
        scenes: those that the LMM's head is trained on.
        folder: for the copies; each has a folder in it, by all that it depends on.
        steps: of four pictures on two cores, sixteen on a GPU (``scale_steps``).
        on_progress: called with each step.
    """
    copy = TokenCopy(source, tuning)
    weights = fingerprint_weights(source.model)
    digest = key_digest({"LMM": weights, "scenes": repr(scenes), "steps": str(steps)})
    folder = folder / f"{tuning.name.lower()}-{digest}"
    result = folder / "trained.safetensors"
    if result.exists():
        copy.load_trained(result)
        return copy
    checkpoints = folder / "checkpoints"
    train(copy, TrainingScheme.GLAMM, checkpoints, steps, on_progress, scenes, LEARNING_RATE)
    copy.save_trained(result)
    shutil.rmtree(checkpoints)  # gigabytes, with the optimizer's state
    return copy
