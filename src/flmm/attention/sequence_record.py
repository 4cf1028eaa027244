"""What is recorded of one answer while the decoding engine generates it.

Letters: ``M`` layers, ``N`` heads, ``R`` recorded tokens, ``S`` tokens of a block, ``K`` keys,
``C`` image tokens, ``D`` LLM width, ``d`` a head's width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from flmm.attention.attention_rows import compute_attention_rows, quantize_rows
from flmm.attention.recordable import refuse_unseen_layer
from flmm.attention.step_recorder import LayerAttention, RecordedStep
from flmm.attention.trace import RecordedRows, RowBlock
from flmm.lmm.base import LMMAdapter
from flmm.lmm.prompt import Prompt

_TOKENS_PER_BLOCK = 16


class SequenceRecord:
    """The attention rows and hidden states of one answer's tokens so far.

    The rows of a block's tokens are computed together, always as for a whole block, so that they
    are the same to the last bit whenever they are asked for.

    Args:
        adapter: the LMM.
        prompt: which the answer follows.
        windows: of each recorded layer, the number of tokens that a token sees; None for all.
    """

    def __init__(self, adapter: LMMAdapter, prompt: Prompt, windows: Sequence[int | None]) -> None:
        self._columns = prompt.image_token_positions.to(adapter.device)[None]
        self._length = prompt.length
        self._windows = windows
        self._shape = adapter.layers, adapter.heads, self._columns.shape[1]
        self._no_states = torch.zeros(
            adapter.layers, 0, adapter.hidden_size, dtype=adapter.dtype, device=adapter.device
        )
        self._pending: list[tuple[RecordedStep, int]] = []
        """The steps of the last block that is not complete, with this sequence's index in each."""
        self._blocks: list[RowBlock] = []
        self._hidden_states: list[Tensor] = []
        """(M, S, D) of each block."""
        self._final_states: list[Tensor] = []
        """(S, D) of each block."""

    @property
    def num_recorded(self) -> int:
        """R."""
        return sum(states.shape[0] for states in self._final_states) + len(self._pending)

    def add(self, step: RecordedStep, sequence: int) -> None:
        """Add a step of the batch, in which the answer's sequence has this index."""
        self._pending.append((step, sequence))
        if len(self._pending) == _TOKENS_PER_BLOCK:
            self.complete_block()

    def complete_block(self) -> None:
        """Compute what is pending, so that the batch's tensors are needed no more."""
        if self._pending:
            self._blocks.append(self._compute_block())
            self._hidden_states.append(self._stack_hidden_states(0))
            self._final_states.append(self._stack_final_states())
            self._pending = []

    def rows(self, count: int) -> RecordedRows:
        """Return the attention rows of the first ``count`` tokens.

        Raises:
            InputError: a layer does not use transformers' attention interface.
        """
        blocks = list(self._blocks)
        if self._pending or not blocks:
            blocks.append(self._compute_block())
        return RecordedRows(tuple(blocks), count)

    def hidden_states(self, first: int = 0) -> Tensor:
        """Return the (M, R - first, D) hidden states from token ``first`` on."""
        block, begin = divmod(first, _TOKENS_PER_BLOCK)
        parts = [
            states[:, begin if index == block else 0 :]
            for index, states in enumerate(self._hidden_states)
            if index >= block
        ]
        if self._pending:
            parts.append(self._stack_hidden_states(begin if block == len(self._blocks) else 0))
        return parts[0] if len(parts) == 1 else torch.cat([self._no_states, *parts], dim=1)

    def final_states(self) -> Tensor:
        """Return the (R, D) hidden states after the final norm."""
        parts = [*self._final_states]
        if self._pending:
            parts.append(self._stack_final_states())
        return torch.cat([self._no_states[0], *parts])

    def _stack_hidden_states(self, first: int) -> Tensor:
        pending, device = self._pending[first:], self._no_states.device
        return torch.stack(
            [
                torch.cat([step.hidden_states[layer][row] for step, row in pending]).to(device)
                for layer in range(len(self._no_states))
            ]
        )

    def _stack_final_states(self) -> Tensor:
        return torch.cat([step.final_states[row] for step, row in self._pending])

    def _compute_block(self) -> RowBlock:
        layers, heads, columns = self._shape
        device = self._columns.device
        shape = (_TOKENS_PER_BLOCK, layers, heads)
        quantized = torch.zeros(*shape, columns, dtype=torch.int16, device=device)
        row_max = torch.zeros(shape, device=device)
        if columns and self._pending:
            for layer in range(layers):
                rows = self._compute_layer(layer)
                layer_quantized, layer_max = quantize_rows(rows)
                quantized[:, layer] = layer_quantized.transpose(0, 1)
                row_max[:, layer] = layer_max.transpose(0, 1)
        return RowBlock(quantized, row_max)

    def _compute_layer(self, layer: int) -> Tensor:
        """Return the (N, S, C) rows of a layer, of which those after the pending ones are void."""
        attentions: list[tuple[LayerAttention, int]] = []
        for step, row in self._pending:
            attention = step.attentions[layer]
            if attention is None:
                raise refuse_unseen_layer(layer)
            attentions.append((attention, row))
        last, row = attentions[-1]
        begin = self._length + _TOKENS_PER_BLOCK * len(self._blocks)
        end = begin + _TOKENS_PER_BLOCK
        key = _pad(last.key[row : row + 1, :, : begin + len(attentions)], end)
        queries = [attention.query[row : row + 1] for attention, row in attentions]
        query = _pad(torch.cat(queries, dim=2), _TOKENS_PER_BLOCK)
        keys = torch.arange(end, device=key.device)
        positions = torch.arange(begin, end, device=key.device)[:, None]
        visible = keys <= positions
        window = self._windows[layer]
        if window is not None:
            visible &= keys > positions - window
        columns = self._columns.to(key.device)
        return compute_attention_rows(
            query, key, visible[None, None], last.scaling, columns, last.softcap, last.sinks
        )[0]


def _pad(tensor: Tensor, length: int) -> Tensor:
    """Return (…, length, d) with zeros at the end."""
    missing = length - tensor.shape[-2]
    return torch.nn.functional.pad(tensor, (0, 0, 0, missing)) if missing else tensor
