"""Records word-image attention and hidden states while the LMM runs as it always does.

The model keeps its own attention (sdpa, flash or eager); beside it, for the wanted tokens only,
``softmax(q·kᵀ·scale + mask)`` over all earlier tokens is worked out and cut to the image columns
(F-LMM, arXiv 2406.05821, section 3.1). Memory grows with words × image tokens.

Letters: ``M`` layers, ``N`` heads, ``h w`` image-token grid, ``T`` tokens of the answer, ``D`` LLM
width, ``B`` sequences, ``R`` recorded rows a sequence, ``Q`` queries, ``K`` keys, ``C`` = h·w.
"""

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.configuration_utils import PreTrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from flmm.attention.attention_rows import (
    apply_sliding_window,
    compute_attention_rows,
    gather_rows,
    quantize_rows,
    visible_keys,
)
from flmm.attention.trace import RecordedRows, RowBlock
from flmm.errors import InputError
from flmm.lmm.base import LMMAdapter

# transformers looks for "flash" in the name, so the name keeps that of what really runs.
_IMPLEMENTATION_PREFIX = "flmm_recording_"
_UNSUPPORTED_OPTIONS = ("s_aux", "position_bias")
# Memory is asked for by so many tokens of a generation, whose length nobody knows.
_STEPS_PER_BLOCK = 16


class AttentionRecorder:
    """The rows of one forward pass, or of the steps of one generation."""

    def __init__(
        self, adapter: LMMAdapter, image_token_positions: Tensor, positions: Tensor | None = None
    ) -> None:
        """
        ``image_columns``: (B, C) positions of the image tokens, -1 where a sequence has fewer.
        ``positions``: (B, R) positions whose rows are wanted; None records every forward pass of a
        single token.
        """
        self._layer_indices = {
            module: index
            for index, layer in enumerate(adapter.recorded_layers)
            for module in layer.modules()
        }
        self._num_tokens_seen = [0] * adapter.layers
        """Tokens that each layer has seen, those that a sliding cache has dropped included."""
        self._image_token_positions = image_token_positions
        self._has_missing_columns = bool((image_token_positions < 0).any())
        """Whether some sequence has fewer image tokens than another."""
        self._positions = positions
        self._rows_per_pass = 1 if positions is None else positions.shape[1]
        """Wanted of each forward pass."""
        self._rows_per_block = _STEPS_PER_BLOCK if positions is None else self._rows_per_pass
        self._empty_hidden_states = torch.zeros(
            len(image_token_positions),
            0,
            adapter.hidden_size,
            dtype=adapter.dtype,
            device=adapter.device,
        )
        shape = (
            adapter.layers,
            len(image_token_positions),
            adapter.heads,
            image_token_positions.shape[1],
        )
        self._step_rows = torch.zeros(
            shape if positions is None else (0,), device=image_token_positions.device
        )
        """(M, B, N, C): the rows of a generation's step, until all layers have given theirs."""
        self._blocks: list[tuple[Tensor, Tensor]] = []
        """(S, M, B, N, C) int16 and (S, M, B, N): the rows as ``rows.compressed`` makes them."""
        self._num_heads = adapter.heads
        self._num_rows_by_layer = [0] * adapter.layers
        """Rows that each layer's attention has given."""
        self._hidden_states: list[list[Tensor]] = [[] for _ in range(adapter.layers)]

    @property
    def num_recorded(self) -> int:
        """Rows recorded so far; the steps of a generation."""
        return sum(rows.shape[1] for rows in self._hidden_states[-1])

    def rows(self, sequence: int, count: int) -> RecordedRows:
        """The first ``count`` attention rows of one sequence.

        Raises:
            InputError: a layer does not use transformers' attention interface.
        """
        for layer, seen in enumerate(self._num_rows_by_layer):
            if seen < self.num_recorded:
                raise InputError(
                    f"the LMM's layer {layer} does not attend through transformers' attention"
                    " interface, so flmm cannot look on; choose another LMM"
                )
        blocks = self._blocks or [self._new_block()]
        return RecordedRows(
            tuple(RowBlock(all_[:, :, sequence], top[:, :, sequence]) for all_, top in blocks),
            count,
        )

    def hidden_states(self, first: int = 0) -> Tensor:
        """(M, B, R, D), the last layer's after the final norm; from a generation's step ``first``
        on."""
        return torch.stack(
            [
                _concatenate_states(states[first:], self._empty_hidden_states)
                for states in self._hidden_states
            ]
        )

    def record_attention(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        mask: Tensor | None,
        scaling: float | None,
        sliding_window: int | None,
        softcap: float | None,
    ) -> None:
        """Called by the registered attention function, before the model's own."""
        layer = self._layer_indices.get(module)
        if layer is None:
            return
        queries = query.shape[2]
        self._num_tokens_seen[layer] += queries
        if not self._is_recorded(queries):
            return
        # The layers of a model that is spread over devices each see their own.
        positions = None if self._positions is None else self._positions.to(key.device)
        dropped = max(self._num_tokens_seen[layer] - key.shape[2], 0)
        visible = visible_keys(mask, positions, queries, key)
        if sliding_window is not None and (mask is None or mask.ndim != 4):
            last = self._num_tokens_seen[layer] - 1 if positions is None else positions
            visible = apply_sliding_window(visible, last, sliding_window, dropped, key)
        columns = self._image_token_positions.to(key.device) - dropped
        rows = compute_attention_rows(
            gather_rows(query, positions, dim=2),
            key,
            visible,
            query.shape[-1] ** -0.5 if scaling is None else scaling,
            columns.clamp(min=0) if dropped or self._has_missing_columns else columns,
            softcap,
        )
        if dropped or self._has_missing_columns:
            rows.mul_((columns >= 0)[:, None, None, :])
        self._store_rows(layer, rows)

    def record_hidden_states(self, layer: int, states: Tensor) -> None:
        """Called after each layer with its (B, Q, D) output."""
        if not self._is_recorded(states.shape[1]):
            return
        positions = None if self._positions is None else self._positions.to(states.device)
        chosen = gather_rows(states, positions, dim=1)
        self._hidden_states[layer].append(chosen.to(self._empty_hidden_states.device))
        if positions is None and layer == len(self._hidden_states) - 1:
            self._store_step()

    def _store_rows(self, layer: int, rows: Tensor) -> None:
        """Takes the (B, N, R, C) rows of a layer."""
        self._num_rows_by_layer[layer] += self._rows_per_pass
        if self._positions is None:
            self._step_rows[layer] = rows[:, :, 0]
            return
        if not self._blocks:
            self._blocks.append(self._new_block())
        levels, largest = quantize_rows(rows)
        block_levels, block_largest = self._blocks[0]
        block_levels[:, layer] = levels.permute(2, 0, 1, 3)
        block_largest[:, layer] = largest.permute(2, 0, 1)

    def _store_step(self) -> None:
        """Makes a step's rows smaller, all layers' at once: many small calls take longer."""
        place = (len(self._hidden_states[-1]) - 1) % self._rows_per_block
        if place == 0:
            self._blocks.append(self._new_block())
        levels, largest = quantize_rows(self._step_rows)
        block_levels, block_largest = self._blocks[-1]
        block_levels[place], block_largest[place] = levels, largest

    def _new_block(self) -> tuple[Tensor, Tensor]:
        sequences, cells = self._image_token_positions.shape
        shape = (self._rows_per_block, len(self._num_rows_by_layer), sequences, self._num_heads)
        device = self._image_token_positions.device
        levels = torch.empty(*shape, cells, dtype=torch.int16, device=device)
        return levels, torch.empty(shape, device=device)

    def _is_recorded(self, queries: int) -> bool:
        return self._positions is not None or queries == 1


_active_recorder: ContextVar[AttentionRecorder | None] = ContextVar("flmm_recording", default=None)


@contextmanager
def record(recorder: AttentionRecorder, adapter: LMMAdapter) -> Iterator[AttentionRecorder]:
    """Records ``adapter``'s LLM inside the ``with``; leaves it as it was, whatever happens.

    Only the LLM's configuration is changed, so the vision tower runs untouched; one recording at a
    time holds the adapter.
    """
    with adapter.lock, torch.no_grad(), ExitStack() as undo:
        for config in _text_configs(adapter):
            undo.callback(setattr, config, "_attn_implementation", config._attn_implementation)
            config._attn_implementation = _register_attention(config._attn_implementation)
        for index, layer in enumerate(adapter.recorded_layers):
            module = adapter.final_norm if layer is adapter.decoder_layers[-1] else layer
            hook = functools.partial(_hidden_states_hook, recorder, index)
            undo.callback(module.register_forward_hook(hook).remove)
        undo.callback(_active_recorder.reset, _active_recorder.set(recorder))
        yield recorder


def _recording_attention(
    implementation: str,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: object,
) -> tuple[Tensor, Tensor | None]:
    """The registered attention function: the model's own, and the active recording's rows."""
    recording = _active_recorder.get()
    if recording is not None:
        for name in _UNSUPPORTED_OPTIONS:
            if options.get(name) is not None:
                raise InputError(
                    f"the LMM attends with {name!r}, which flmm cannot look on; choose another LMM"
                )
        window, softcap = options.get("sliding_window"), options.get("softcap")
        assert window is None or isinstance(window, int)
        assert softcap is None or isinstance(softcap, float)
        recording.record_attention(module, query, key, attention_mask, scaling, window, softcap)
    own: Callable[..., tuple[Tensor, Tensor | None]] = getattr(
        sys.modules[type(module).__module__], "eager_attention_forward", sdpa_attention_forward
    )
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, own)
    output: tuple[Tensor, Tensor | None] = attend(
        module, query, key, value, attention_mask, scaling=scaling, **options
    )
    return output


def _register_attention(implementation: str) -> str:
    """The name under which transformers finds the recording twin of ``implementation``."""
    if implementation.startswith(_IMPLEMENTATION_PREFIX):
        return implementation
    name = _IMPLEMENTATION_PREFIX + implementation
    if name not in ALL_ATTENTION_FUNCTIONS:
        AttentionInterface.register(name, functools.partial(_recording_attention, implementation))
        if implementation in ALL_MASK_ATTENTION_FUNCTIONS:
            AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[implementation])
    return name


def _text_configs(adapter: LMMAdapter) -> list[PreTrainedConfig]:
    """Every configuration object that the LLM's modules read; some hold copies of their own."""
    configs = [getattr(module, "config", None) for module in adapter.text_model.modules()]
    return list({id(c): c for c in configs if isinstance(c, PreTrainedConfig)}.values())


def _hidden_states_hook(
    recorder: AttentionRecorder,
    layer: int,
    _module: nn.Module,
    _inputs: tuple[object, ...],
    output: Tensor | tuple[Tensor, ...],
) -> None:
    # A hook runs for every thread that uses the model; only one of them is recording.
    if _active_recorder.get() is recorder:
        recorder.record_hidden_states(layer, output if isinstance(output, Tensor) else output[0])


def _concatenate_states(states: list[Tensor], empty: Tensor) -> Tensor:
    return states[0] if len(states) == 1 else torch.cat([empty, *states], dim=1)
