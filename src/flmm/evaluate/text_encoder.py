"""A text encoder, whose mean-pooled embeddings say how similar two phrases are.

Letters: ``n`` texts, ``T`` tokens of the longest, ``D`` width of the encoder.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from transformers.modeling_utils import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from flmm.errors import InputError, first_line
from flmm.lmm.model_type import expand_home, read_model_type
from flmm.pretrained_weights import load_pretrained_encoder
from flmm.progress import ProgressCallback, no_progress
from flmm.user_input import check_text, resolve_device

_ROLE = "text encoder"
_BATCH_SIZE = 64
_MAX_TOKENS = 512
"""Of a phrase, as in GLaMM's published evaluation."""


class TextEncoder:
    """A text encoder that embeds each text once.

    Args:
        model: gives the last hidden states of a text, as ``BertModel``.
        tokenizer: of the model.
        name: in results.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str
    ) -> None:
        self.model = model.train(False).requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = name
        positions = getattr(model.config, "max_position_embeddings", None) or _MAX_TOKENS
        self._max_tokens = min(_MAX_TOKENS, positions, tokenizer.model_max_length)
        self._embeddings: dict[str, Tensor] = {}

    @classmethod
    def from_pretrained(cls, name: str, device: str | None = None) -> "TextEncoder":
        """Load a text encoder of transformers, such as ``bert-base-uncased``.

        Args:
            name: a folder or hub id.
            device: None means the GPU if there is one.

        Raises:
            InputError: there is no such model, it is damaged, or it is no text encoder.
        """
        from transformers.models.auto.configuration_auto import AutoConfig
        from transformers.models.auto.modeling_auto import MODEL_MAPPING
        from transformers.models.auto.tokenization_auto import AutoTokenizer

        folder = expand_home(check_text(f"name of the {_ROLE}", name))
        model_type = read_model_type(folder, role=_ROLE)
        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            model_class = MODEL_MAPPING[type(config)]
            assert isinstance(model_class, type)
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except (OSError, ValueError, KeyError, ImportError, AttributeError) as error:
            raise InputError(
                f"{_ROLE} {name!r} of model_type {model_type!r} cannot be loaded"
                f" ({first_line(error)}); name one such as 'bert-base-uncased'"
            ) from error
        model: PreTrainedModel = load_pretrained_encoder(model_class, _ROLE, folder)
        encoder = cls(model, tokenizer, name)
        model.to(resolve_device(device), torch.float32)
        encoder.embed(["a phrase"])
        return encoder

    def embed(self, texts: Sequence[str], on_progress: ProgressCallback = no_progress) -> Tensor:
        """Return each text's embedding, (n, D) float32 of length 1, on the CPU.

        It is the mean of the last hidden states of all tokens that are no padding, those at a
        text's beginning and end among them.

        Raises:
            InputError: the model gives no hidden states for a text.
        """
        # Texts of about one length go together, so that little is padding.
        missing = sorted({text for text in texts if text not in self._embeddings}, key=len)
        size = _BATCH_SIZE if self.tokenizer.pad_token is not None else 1
        for start in range(0, len(missing), size):
            batch = missing[start : start + size]
            self._embeddings.update(zip(batch, self._run(batch), strict=True))
            on_progress(min(start + size, len(missing)), len(missing), "comparing phrases")
        return torch.stack([self._embeddings[text] for text in texts])

    @torch.inference_mode()
    def _run(self, texts: list[str]) -> Tensor:
        """Return the embeddings of some texts, (n, D)."""
        inputs = self.tokenizer(
            texts, padding=len(texts) > 1, truncation=True, max_length=self._max_tokens,
            return_tensors="pt",
        ).to(self.model.device)  # fmt: skip
        try:
            hidden_states = cast(Tensor, self.model(**inputs).last_hidden_state).float()
        except (ValueError, TypeError, AttributeError, KeyError, RuntimeError) as error:
            raise InputError(
                f"{_ROLE} {self.name!r} gives no hidden states for a text ({first_line(error)});"
                " name one such as 'bert-base-uncased'"
            ) from error
        # (n, T, 1)
        counted = inputs["attention_mask"].unsqueeze(-1)
        mean = (hidden_states * counted).sum(1) / counted.sum(1)
        return torch.nn.functional.normalize(mean, dim=-1).cpu()
