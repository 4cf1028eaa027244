"""A frozen transformers model: its layers, sizes and special tokens.

Letters: ``M`` layers, ``N`` heads, ``D`` LLM width, ``T`` tokens of the answer.
"""

import sys
from functools import cached_property

import torch
from torch import Tensor, nn
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from flmm.errors import InputError
from flmm.lmm.prompt import Prompt

_SOFTMAX_LAYER_TYPES = (
    "full_attention",
    "sliding_attention",
    "chunked_attention",
    "indexed_attention",
    "minimax_m3_sparse",
)
"""transformers' ``layer_types`` with softmax attention, which can be recorded."""


def find_recorded_layers(config: PreTrainedConfig) -> tuple[int, ...]:
    """Return the indices in ``decoder_layers`` of an LLM's M layers with softmax attention.

    Of an LLM that attends to pictures in layers of their own, only these.
    """
    cross_attention_layers = getattr(config, "cross_attention_layers", None)
    if cross_attention_layers is not None:
        return tuple(sorted(cross_attention_layers))
    interval = getattr(config, "cross_layer_interval", None)
    if interval is not None:
        # Each stands before so many of the LLM's own layers.
        return tuple(range(0, config.num_hidden_layers // interval * (interval + 1), interval + 1))
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return tuple(range(config.num_hidden_layers))
    return tuple(index for index, kind in enumerate(kinds) if kind in _SOFTMAX_LAYER_TYPES)


class FrozenModel:
    """A multimodal model in evaluation mode, without gradients, and its tokenizer."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model = model
        self.model.train(False).requires_grad_(False)
        self.tokenizer = tokenizer

    @property
    def model_type(self) -> str:
        """The ``model_type`` of the model's configuration."""
        return str(self.model.config.model_type)

    @property
    def text_model(self) -> PreTrainedModel:
        """The LLM's decoder stack, without the vision tower and the language modelling head."""
        model = self.model.get_decoder()  # type: ignore[no-untyped-call]
        assert isinstance(model, PreTrainedModel)
        return model

    @property
    def decoder_layers(self) -> nn.ModuleList:
        """All decoder layers, in order."""
        layers = self.text_model.layers
        assert isinstance(layers, nn.ModuleList)
        return layers

    @cached_property
    def recorded_layers(self) -> tuple[nn.Module, ...]:
        """The M layers with softmax attention to image tokens, in order.

        A hybrid LLM has others between them, and so does one with layers for cross-attention.
        """
        indices = find_recorded_layers(self.text_model.config)
        return tuple(self.decoder_layers[index] for index in indices)

    @property
    def layers(self) -> int:
        """M: the number of recorded layers."""
        return len(self.recorded_layers)

    @property
    def heads(self) -> int:
        """N: the number of query heads of a layer."""
        return int(self.text_model.config.num_attention_heads)

    @property
    def hidden_size(self) -> int:
        """D: the width of the hidden states."""
        return int(self.text_model.config.hidden_size)

    @property
    def context_length(self) -> int | None:
        """The most tokens of a sequence, the answer's among them; None if the config has none."""
        length = getattr(self.text_model.config, "max_position_embeddings", None)
        return length if isinstance(length, int) else None

    def remaining_context(self, num_tokens: int) -> int:
        """Return how many tokens may follow a sequence of ``num_tokens`` tokens.

        Raises:
            InputError: the sequence is longer than the context.
        """
        if self.context_length is None:
            return sys.maxsize
        if num_tokens > self.context_length:
            raise InputError(
                f"the pictures and texts need {num_tokens} tokens, the LMM takes"
                f" {self.context_length}; give shorter texts"
            )
        return self.context_length - num_tokens

    @property
    def device(self) -> torch.device:
        """The device for the inputs."""
        devices = (parameter.device for parameter in self.model.parameters())
        # Weights that accelerate offloads to disk or memory are on "meta" until they are needed.
        return next((device for device in devices if device.type != "meta"), self.model.device)

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    def _to_device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, self.dtype if tensor.is_floating_point() else None)

    def decode(self, token_ids: Tensor) -> str:
        """Decode an answer's tokens, without special tokens and outer white space."""
        text = self.tokenizer.decode(
            token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)
        return text.strip()

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """The tokens that end an answer."""
        config = self.model.generation_config
        eos = config.eos_token_id if config is not None else None
        if eos is None:
            return frozenset()
        return frozenset([eos] if isinstance(eos, int) else eos)

    def find_fixed_answer(self, prompt: Prompt) -> tuple[int, ...]:
        """Return the tokens of an answer that is known beforehand, with the one that ends it.

        An LMM that is trained on pictures alone names in its config.json what it answers without
        one, as ``answer_without_pictures``. All other answers are open: they have no tokens here.
        """
        answer = getattr(self.model.config, "answer_without_pictures", None)
        if answer is None or prompt.picture_views:
            return ()
        token_ids = self.tokenizer(str(answer), add_special_tokens=False)["input_ids"]
        assert isinstance(token_ids, list)
        return (*token_ids, min(self.eos_token_ids))

    @property
    def pad_token_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        if pad is None:
            # Padding is masked, so any token serves where the tokenizer has no padding token.
            pad = min(self.eos_token_ids, default=0)
        assert isinstance(pad, int)
        return pad
