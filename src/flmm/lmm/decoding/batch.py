"""The forward passes of answers that are generated together: prompts, and then token by token.

A step has no padding, and no shape in it depends on a token: transformers' ``generate`` prepares
every step's inputs anew, this one only counts positions.

Letters: ``B`` sequences, ``A`` axes of a position (1, or more for M-RoPE), ``K`` columns of the
cache, ``L`` tokens of a prompt, ``V`` vocabulary.
"""

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from inspect import signature
from typing import Self, cast

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, DynamicSlidingWindowLayer
from transformers.modeling_outputs import CausalLMOutputWithPast

from flmm.lmm.base import LMMAdapter
from flmm.lmm.decoding.slot_cache import SlotCache
from flmm.lmm.prompt import Prompt

_Mask = Tensor | dict[str, Tensor | None] | None

_running_batch: ContextVar["DecodingBatch | None"] = ContextVar("flmm_decoding", default=None)


class DecodingBatch:
    """Sequences of one LMM, of which each can join and leave between two forward passes.

    A context manager: forward passes are possible inside its ``with`` block only.
    """

    def __init__(self, adapter: LMMAdapter) -> None:
        self._adapter = adapter
        config = adapter.text_model.config
        layers = DynamicCache(config=config).layers
        self._cache = SlotCache(len(layers))
        sliding = [layer for layer in layers if isinstance(layer, DynamicSlidingWindowLayer)]
        self._window = sliding[0].sliding_window if sliding else None
        self._layer_types: Sequence[str] | None = getattr(config, "layer_types", None)
        self._takes_logits_to_keep = "logits_to_keep" in signature(adapter.model.forward).parameters
        self._next_positions = torch.zeros(0)
        """(A, B, 1) int64, or (B, 1) where positions have one axis: those of the next tokens."""
        self._masks: _Mask = None

    def __enter__(self) -> Self:
        self._hook = self._adapter.text_model.register_forward_pre_hook(
            self._handle_inputs, with_kwargs=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()

    @property
    def lengths(self) -> Sequence[int]:
        """The number of tokens of each sequence."""
        return self._cache.lengths

    @property
    def windows(self) -> tuple[int | None, ...]:
        """Each decoder layer's number of tokens that a token sees, None for all."""
        if self._layer_types is None:
            return (self._window,) * len(self._adapter.decoder_layers)
        return tuple(
            self._window if kind == "sliding_attention" else None for kind in self._layer_types
        )

    def prefill(self, prompts: Sequence[Prompt]) -> Tensor:
        """Add prompts of one length; return the logits of their first tokens: (prompts, V)."""
        batch = self._adapter.collate(prompts)
        inputs = dict(batch.model_inputs)
        # As generate does, so that attention gets no mask where none is needed.
        del inputs["attention_mask"]
        if self._takes_logits_to_keep:
            inputs["logits_to_keep"] = 1
        earlier = self._next_positions
        try:
            with self._cache.prefill(len(prompts), prompts[0].length):
                return self._run(inputs)
        except BaseException:
            self._next_positions = earlier
            raise

    def step(self, token_ids: Tensor) -> Tensor:
        """Read the next token of each sequence, (B,) int64; return the following one's logits.

        Returns:
            (B, V).
        """
        self._masks = self._build_masks()
        logits = self._run({"input_ids": token_ids[:, None], "position_ids": self._next_positions})
        self._cache.advance()
        self._next_positions = self._next_positions + 1
        return logits

    def remove(self, sequence: int) -> None:
        """Remove a sequence; the last one takes its index."""
        self._cache.remove(sequence)
        kept = list(range(self._next_positions.shape[-2]))
        kept[sequence] = kept[-1]
        self._next_positions = self._next_positions[..., kept[:-1], :]

    def _run(self, inputs: Mapping[str, object]) -> Tensor:
        token = _running_batch.set(self)
        try:
            forward = cast(Callable[..., CausalLMOutputWithPast], self._adapter.model)
            logits = forward(**inputs, cache=self._cache, use_cache=True, return_dict=True).logits
        finally:
            _running_batch.reset(token)
        assert logits is not None
        return logits[:, -1]

    def _handle_inputs(
        self, _module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> tuple[tuple[object, ...], dict[str, object]] | None:
        # A hook runs for every forward pass of the text model, also of another thread.
        if _running_batch.get() is not self:
            return None
        if self._cache.is_prefilling:
            self._note_positions(kwargs)
            return None
        return args, kwargs | {
            "position_ids": self._next_positions,
            "attention_mask": self._masks,
        }

    def _note_positions(self, kwargs: Mapping[str, object]) -> None:
        """Note the positions after those of the prompts that the text model is given."""
        states, positions = kwargs.get("inputs_embeds"), kwargs.get("position_ids")
        if states is None:
            states = kwargs["input_ids"]
        assert isinstance(states, Tensor)
        count, length = states.shape[:2]
        if positions is None:
            following = torch.full((count, 1), length, device=states.device)
        else:
            assert isinstance(positions, Tensor)
            # A prompt ends with text, whose positions are the same on all axes.
            following = positions[..., -1:] + 1
            following = following.expand(*following.shape[:-2], count, 1)
        earlier = self._next_positions if self._cache.lengths else following[..., :0, :]
        # Without a picture, some LMMs with several axes leave them out.
        axes = max(earlier.shape[:-2], following.shape[:-2])
        self._next_positions = torch.cat(
            [part.expand(*axes, *part.shape[-2:]) for part in (earlier, following)], dim=-2
        )

    def _build_masks(self) -> _Mask:
        """Return which columns the next tokens attend to, in the form that the text model takes."""
        lengths = self._cache.lengths
        longest = max(lengths)
        full = sliding = None
        device = self._adapter.device
        is_ragged = min(lengths) < longest
        if is_ragged or (self._window is not None and longest >= self._window):
            columns = torch.arange(longest + 1, device=device)
            own = torch.tensor(lengths, device=device)[:, None]
            earlier = columns <= own
            full = self._to_mask(earlier) if is_ragged else None
            if self._window is not None:
                sliding = self._to_mask(earlier & (columns > own - self._window))
        if self._layer_types is None:
            return full if self._window is None else sliding
        masks = {"full_attention": full, "sliding_attention": sliding}
        return {kind: masks[kind] for kind in set(self._layer_types)}

    def _to_mask(self, visible: Tensor) -> Tensor:
        """Return (B, K) as the (B, 1, 1, K) mask that the attention implementation takes."""
        mask = visible[:, None, None]
        if self._adapter.text_model.config._attn_implementation == "eager":
            dtype = self._adapter.dtype
            lowest = torch.finfo(dtype).min
            return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, lowest)
        return mask
