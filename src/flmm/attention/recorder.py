"""Recording of word-image attention and hidden states during the LMM's normal forward passes.

The model keeps its own attention (sdpa, flash or eager); in addition, for the recorded tokens only,
``softmax(q·kᵀ·scale + mask)`` over all earlier tokens is computed and cut to the image columns
(F-LMM, arXiv 2406.05821, section 3.1). Memory grows with words × image tokens.

Letters: ``M`` layers, ``N`` heads, ``h w`` image-token grid, ``T`` tokens of the answer, ``D`` LLM
width, ``B`` sequences, ``R`` recorded rows a sequence, ``Q`` queries, ``K`` keys, ``C`` = h·w.
"""

import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from flmm.attention.attention_rows import (
    apply_sliding_window,
    compute_attention_rows,
    compute_visible_keys,
    gather_rows,
    quantize_rows,
)
from flmm.attention.interception import AttentionCallback, intercept_attention
from flmm.attention.recordable import (
    average_streams,
    check_attention_options,
    refuse_unseen_layer,
)
from flmm.attention.trace import RecordedRows, RowBlock
from flmm.lmm.base import LMMAdapter

# A generation's length is not known in advance, so memory is allocated for this many steps.
_STEPS_PER_BLOCK = 16


class AttentionRecorder:
    """The attention rows and hidden states of one forward pass, or of one generation's steps."""

    def __init__(
        self, adapter: LMMAdapter, image_token_positions: Tensor, positions: Tensor | None = None
    ) -> None:
        """
        ``image_token_positions``: (B, C), padded with -1 where a sequence has fewer image tokens.
        ``positions``: (B, R) positions to record; None records every forward pass of a single
        token.
        """
        self._layer_indices = {
            module: index
            for index, layer in enumerate(adapter.recorded_layers)
            for module in layer.modules()
        }
        self._num_tokens_seen = [0] * adapter.layers
        """Tokens that each layer has processed, including those that a sliding cache dropped."""
        self._image_token_positions = image_token_positions
        self._image_tokens_in_sequence = adapter.image_tokens_in_sequence
        self._has_missing_columns = bool((image_token_positions < 0).any())
        """Whether some sequence has fewer image tokens than another."""
        self._positions = positions
        self._rows_per_pass = 1 if positions is None else positions.shape[1]
        """Rows that each forward pass records."""
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
        """(M, B, N, C): the rows of the current step of a generation."""
        self._blocks: list[tuple[Tensor, Tensor]] = []
        """(S, M, B, N, C) int16 and (S, M, B, N): rows from ``quantize_rows``."""
        self._num_heads = adapter.heads
        self._num_rows_by_layer = [0] * adapter.layers
        """Rows recorded from each layer's attention."""
        self._hidden_states: list[list[Tensor]] = [[] for _ in range(adapter.layers)]
        last_is_recorded = adapter.recorded_layers[-1] is adapter.decoder_layers[-1]
        self._final_states = self._hidden_states[-1] if last_is_recorded else []

    @property
    def num_recorded(self) -> int:
        """Rows recorded so far; in a generation, one a step."""
        return len(self._final_states) * self._rows_per_pass

    def rows(self, sequence: int, count: int) -> RecordedRows:
        """Return the first ``count`` attention rows of one sequence.

        Raises:
            InputError: a layer does not use transformers' attention interface.
        """
        has_columns = self._image_token_positions.shape[1] > 0
        for layer, num_rows in enumerate(self._num_rows_by_layer):
            if has_columns and num_rows < self.num_recorded:
                raise refuse_unseen_layer(layer)
        blocks = self._blocks or [self._new_block()]
        return RecordedRows(
            tuple(
                RowBlock(quantized[:, :, sequence], row_max[:, :, sequence])
                for quantized, row_max in blocks
            ),
            count,
        )

    def hidden_states(self, first: int = 0) -> Tensor:
        """Return the (M, B, R, D) hidden states from step ``first`` on.

        Those of the LLM's last layer, if it is recorded, are those after the final norm.
        """
        return torch.stack(
            [
                _concatenate_states(states[first:], self._empty_hidden_states)
                for states in self._hidden_states
            ]
        )

    def final_states(self) -> Tensor:
        """Return the (B, R, D) hidden states after the final norm."""
        return _concatenate_states(self._final_states, self._empty_hidden_states)

    def record_attention(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        mask: Tensor | None,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        s_aux: Tensor | None = None,
        **options: object,
    ) -> None:
        """Record a layer's rows; called before the model's own attention, with its arguments.

        Raises:
            InputError: the model attends in a way that cannot be recorded.
        """
        layer = self._layer_indices.get(module)
        if layer is None:
            return
        check_attention_options(module, options)
        queries = query.shape[2]
        self._num_tokens_seen[layer] += queries
        if not self._is_recorded(queries):
            return
        # The layers of a model may be on different devices.
        positions = None if self._positions is None else self._positions.to(key.device)
        dropped = 0
        if self._image_tokens_in_sequence:
            dropped = max(self._num_tokens_seen[layer] - key.shape[2], 0)
        visible = compute_visible_keys(mask, positions, queries, key)
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
            sinks=s_aux,
        )
        if dropped or self._has_missing_columns:
            rows.mul_((columns >= 0)[:, None, None, :])
        self._store_rows(layer, rows)

    def record_hidden_states(self, layer: int | None, states: Tensor) -> None:
        """Record a layer's (B, Q, D) output, or the final norm's; called by a forward hook."""
        if not self._is_recorded(states.shape[1]):
            return
        positions = None if self._positions is None else self._positions.to(states.device)
        recorded = gather_rows(
            average_streams(states, self._empty_hidden_states.shape[2]), positions, dim=1
        )
        whole = self._final_states if layer is None else self._hidden_states[layer]
        whole.append(recorded.to(self._empty_hidden_states.device))
        if positions is None and layer is None:
            self._store_step()

    def _store_rows(self, layer: int, rows: Tensor) -> None:
        """Store the (B, N, R, C) rows of a layer."""
        self._num_rows_by_layer[layer] += self._rows_per_pass
        if self._positions is None:
            self._step_rows[layer] = rows[:, :, 0]
            return
        if not self._blocks:
            self._blocks.append(self._new_block())
        quantized, row_max = quantize_rows(rows)
        block_quantized, block_row_max = self._blocks[0]
        block_quantized[:, layer] = quantized.permute(2, 0, 1, 3)
        block_row_max[:, layer] = row_max.permute(2, 0, 1)

    def _store_step(self) -> None:
        """Quantize the step's rows of all layers at once, which is faster than layer by layer."""
        row = (len(self._final_states) - 1) % self._rows_per_block
        if row == 0:
            self._blocks.append(self._new_block())
        quantized, row_max = self._blocks[-1]
        quantized[row], row_max[row] = quantize_rows(self._step_rows)

    def _new_block(self) -> tuple[Tensor, Tensor]:
        sequences, columns = self._image_token_positions.shape
        shape = (self._rows_per_block, len(self._num_rows_by_layer), sequences, self._num_heads)
        device = self._image_token_positions.device
        quantized = torch.empty(*shape, columns, dtype=torch.int16, device=device)
        return quantized, torch.empty(shape, device=device)

    def _is_recorded(self, queries: int) -> bool:
        return self._positions is not None or queries == 1


class Recorder(Protocol):
    """What is called while the LMM runs."""

    @property
    def record_attention(self) -> AttentionCallback:
        """What is called before each attention."""

    def record_hidden_states(self, layer: int | None, states: Tensor) -> None:
        """Receive a layer's (B, Q, D) output, or for None the final norm's."""


AnyRecorder = TypeVar("AnyRecorder", bound=Recorder)

_active_recorder: ContextVar[Recorder | None] = ContextVar("flmm_recording", default=None)


@contextmanager
def record(recorder: AnyRecorder, adapter: LMMAdapter) -> Iterator[AnyRecorder]:
    """Record ``adapter``'s LLM inside the ``with`` block; restore it afterwards, also on errors.

    Holds ``adapter.recording_lock``, so that only one recorder is active at a time.
    """
    with adapter.recording_lock, torch.no_grad(), ExitStack() as undo:
        undo.enter_context(intercept_attention(recorder.record_attention))
        for index, layer in enumerate(adapter.recorded_layers):
            if layer is not adapter.decoder_layers[-1]:
                undo.callback(_hook_layer(recorder, index, adapter, layer).remove)
        hook = functools.partial(_output_hook, recorder, None)
        # The decoder returns states after its final norm, which has another name in some models.
        undo.callback(adapter.text_model.register_forward_hook(hook).remove)
        undo.callback(_active_recorder.reset, _active_recorder.set(recorder))
        yield recorder


def _hook_layer(
    recorder: Recorder, index: int, adapter: LMMAdapter, layer: nn.Module
) -> RemovableHandle:
    """Let the recorder see what a layer, not the last one, puts out."""
    if adapter.image_tokens_in_sequence:
        return layer.register_forward_hook(functools.partial(_output_hook, recorder, index))
    # Without a picture the layer does not run; the next one is then given what this one would be.
    following = adapter.decoder_layers[list(adapter.decoder_layers).index(layer) + 1]
    return following.register_forward_pre_hook(functools.partial(_input_hook, recorder, index))


def _input_hook(
    recorder: Recorder, layer: int, _module: nn.Module, inputs: tuple[Tensor, ...]
) -> None:
    if _active_recorder.get() is recorder:
        recorder.record_hidden_states(layer, inputs[0])


def _output_hook(
    recorder: Recorder,
    layer: int | None,
    _module: nn.Module,
    _inputs: tuple[object, ...],
    output: Tensor | tuple[Tensor, ...],
) -> None:
    # A hook runs in every thread that uses the model, but only one of them records.
    if _active_recorder.get() is recorder:
        recorder.record_hidden_states(layer, output if isinstance(output, Tensor) else output[0])


def _concatenate_states(states: list[Tensor], empty: Tensor) -> Tensor:
    return states[0] if len(states) == 1 else torch.cat([empty, *states], dim=1)
