"""A model of transformers that is never trained here: its parts, its sizes, its tokens.

Letters: ``M`` layers, ``N`` heads, ``D`` LLM width, ``T`` tokens of the answer.
"""

from functools import cached_property

import torch
from torch import Tensor, nn
from transformers.modeling_utils import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

_SOFTMAX_LAYER_TYPES = ("full_attention", "sliding_attention", "chunked_attention")
"""The ``layer_types`` of transformers whose attention has rows to record."""


class FrozenModel:
    """A multimodal model and its tokenizer; no weight of it needs a gradient."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model = model
        self.model.train(False).requires_grad_(False)
        self.tokenizer = tokenizer

    @property
    def text_model(self) -> PreTrainedModel:
        """The LLM's decoder stack, without the vision tower and without the vocabulary's head."""
        model = self.model.get_decoder()  # type: ignore[no-untyped-call]
        assert isinstance(model, PreTrainedModel)
        return model

    @property
    def decoder_layers(self) -> nn.ModuleList:
        """All layers, in order."""
        layers = self.text_model.layers
        assert isinstance(layers, nn.ModuleList)
        return layers

    @property
    def final_norm(self) -> nn.Module:
        """The norm after the last layer."""
        norm = self.text_model.norm
        assert isinstance(norm, nn.Module)
        return norm

    @cached_property
    def recorded_layers(self) -> tuple[nn.Module, ...]:
        """The M layers that attend by softmax; a hybrid LLM has others between them."""
        kinds = getattr(self.text_model.config, "layer_types", None)
        if kinds is None:
            return tuple(self.decoder_layers)
        pairs = zip(self.decoder_layers, kinds, strict=True)
        return tuple(layer for layer, kind in pairs if kind in _SOFTMAX_LAYER_TYPES)

    @property
    def layers(self) -> int:
        """M."""
        return len(self.recorded_layers)

    @property
    def heads(self) -> int:
        """N: query heads of a layer."""
        return int(self.text_model.config.num_attention_heads)

    @property
    def hidden_size(self) -> int:
        """D."""
        return int(self.text_model.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        places = (parameter.device for parameter in self.model.parameters())
        # What accelerate has put aside, on disk or in memory, says "meta" until it is needed.
        return next((place for place in places if place.type != "meta"), self.model.device)

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    def decode(self, token_ids: Tensor) -> str:
        """The text of an answer's tokens, without special tokens and outer white space."""
        text = self.tokenizer.decode(
            token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)
        return text.strip()

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """The tokens that end an answer."""
        configured = self.model.generation_config
        ends = configured.eos_token_id if configured is not None else None
        if ends is None:
            return frozenset()
        return frozenset([ends] if isinstance(ends, int) else ends)

    @property
    def pad_token_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        if pad is None:
            # Padding is masked, so any token does where the tokenizer has none of its own.
            pad = min(self.eos_token_ids, default=0)
        assert isinstance(pad, int)
        return pad
