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
    attention_rows,
    compressed,
    pick_rows,
    visible_keys,
    within_window,
)
from flmm.attention.trace import RecordedRows, RowBlock
from flmm.errors import InputError
from flmm.lmm.base import LMMAdapter

# transformers looks for "flash" in the name, so the name keeps that of what really runs.
_PREFIX = "flmm_recording_"
_NOT_RECORDABLE = ("s_aux", "position_bias")
# Memory is asked for by so many tokens of a generation, whose length nobody knows.
_STEPS_A_BLOCK = 16


class Recording:
    """The rows of one forward pass, or of the steps of one generation."""

    def __init__(
        self, adapter: LMMAdapter, image_columns: Tensor, positions: Tensor | None = None
    ) -> None:
        """
        ``image_columns``: (B, C) positions of the image tokens, -1 where a sequence has fewer.
        ``positions``: (B, R) positions whose rows are wanted; None records every forward pass of a
        single token.
        """
        self._layer_of = {
            module: index
            for index, layer in enumerate(adapter.recorded_layers)
            for module in layer.modules()
        }
        self._fed = [0] * adapter.layers
        """Tokens that each layer has seen, those that a sliding cache has dropped included."""
        self._columns = image_columns
        self._uneven = bool((image_columns < 0).any())
        """Whether some sequence has fewer image tokens than another."""
        self._positions = positions
        self._rows = 1 if positions is None else positions.shape[1]
        """Wanted of each forward pass."""
        self._block_rows = _STEPS_A_BLOCK if positions is None else self._rows
        self._no_hidden = torch.zeros(
            len(image_columns), 0, adapter.hidden_size, dtype=adapter.dtype, device=adapter.device
        )
        shape = (adapter.layers, len(image_columns), adapter.heads, image_columns.shape[1])
        self._step = torch.zeros(shape if positions is None else (0,), device=image_columns.device)
        """(M, B, N, C): the rows of a generation's step, until all layers have given theirs."""
        self._blocks: list[tuple[Tensor, Tensor]] = []
        """(S, M, B, N, C) int16 and (S, M, B, N): the rows as ``rows.compressed`` makes them."""
        self._heads = adapter.heads
        self._seen = [0] * adapter.layers
        """Rows that each layer's attention has given."""
        self._hidden: list[list[Tensor]] = [[] for _ in range(adapter.layers)]

    @property
    def steps(self) -> int:
        """Rows recorded so far; the steps of a generation."""
        return sum(rows.shape[1] for rows in self._hidden[-1])

    def rows(self, sequence: int, count: int) -> RecordedRows:
        """The first ``count`` attention rows of one sequence.

        Raises:
            InputError: a layer does not use transformers' attention interface.
        """
        for layer, seen in enumerate(self._seen):
            if seen < self.steps:
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
        return torch.stack([_joined(states[first:], self._no_hidden) for states in self._hidden])

    def see_attention(
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
        layer = self._layer_of.get(module)
        if layer is None:
            return
        queries = query.shape[2]
        self._fed[layer] += queries
        if not self._wants(queries):
            return
        # The layers of a model that is spread over devices each see their own.
        positions = None if self._positions is None else self._positions.to(key.device)
        dropped = max(self._fed[layer] - key.shape[2], 0)
        visible = visible_keys(mask, positions, queries, key)
        if sliding_window is not None and (mask is None or mask.ndim != 4):
            last = self._fed[layer] - 1 if positions is None else positions
            visible = within_window(visible, last, sliding_window, dropped, key)
        columns = self._columns.to(key.device) - dropped
        rows = attention_rows(
            pick_rows(query, positions, dim=2),
            key,
            visible,
            query.shape[-1] ** -0.5 if scaling is None else scaling,
            columns.clamp(min=0) if dropped or self._uneven else columns,
            softcap,
        )
        if dropped or self._uneven:
            rows.mul_((columns >= 0)[:, None, None, :])
        self._keep(layer, rows)

    def see_hidden(self, layer: int, states: Tensor) -> None:
        """Called after each layer with its (B, Q, D) output."""
        if not self._wants(states.shape[1]):
            return
        positions = None if self._positions is None else self._positions.to(states.device)
        chosen = pick_rows(states, positions, dim=1)
        self._hidden[layer].append(chosen.to(self._no_hidden.device))
        if positions is None and layer == len(self._hidden) - 1:
            self._end_step()

    def _keep(self, layer: int, rows: Tensor) -> None:
        """Takes the (B, N, R, C) rows of a layer."""
        self._seen[layer] += self._rows
        if self._positions is None:
            self._step[layer] = rows[:, :, 0]
            return
        if not self._blocks:
            self._blocks.append(self._new_block())
        levels, largest = compressed(rows)
        block_levels, block_largest = self._blocks[0]
        block_levels[:, layer] = levels.permute(2, 0, 1, 3)
        block_largest[:, layer] = largest.permute(2, 0, 1)

    def _end_step(self) -> None:
        """Makes a step's rows smaller, all layers' at once: many small calls take longer."""
        place = (len(self._hidden[-1]) - 1) % self._block_rows
        if place == 0:
            self._blocks.append(self._new_block())
        levels, largest = compressed(self._step)
        block_levels, block_largest = self._blocks[-1]
        block_levels[place], block_largest[place] = levels, largest

    def _new_block(self) -> tuple[Tensor, Tensor]:
        sequences, cells = self._columns.shape
        shape = (self._block_rows, len(self._seen), sequences, self._heads)
        device = self._columns.device
        levels = torch.empty(*shape, cells, dtype=torch.int16, device=device)
        return levels, torch.empty(shape, device=device)

    def _wants(self, queries: int) -> bool:
        return self._positions is not None or queries == 1


_active: ContextVar[Recording | None] = ContextVar("flmm_recording", default=None)


@contextmanager
def record(recording: Recording, adapter: LMMAdapter) -> Iterator[Recording]:
    """Records ``adapter``'s LLM inside the ``with``; leaves it as it was, whatever happens.

    Only the LLM's configuration is changed, so the vision tower runs untouched; one recording at a
    time holds the adapter.
    """
    with adapter.lock, torch.no_grad(), ExitStack() as undo:
        for config in _text_configs(adapter):
            undo.callback(setattr, config, "_attn_implementation", config._attn_implementation)
            config._attn_implementation = _registered(config._attn_implementation)
        for index, layer in enumerate(adapter.recorded_layers):
            module = adapter.final_norm if layer is adapter.decoder_layers[-1] else layer
            hook = functools.partial(_hidden_hook, recording, index)
            undo.callback(module.register_forward_hook(hook).remove)
        undo.callback(_active.reset, _active.set(recording))
        yield recording


def _attend(
    underlying: str,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: object,
) -> tuple[Tensor, Tensor | None]:
    """The registered attention function: the model's own, and the active recording's rows."""
    recording = _active.get()
    if recording is not None:
        for name in _NOT_RECORDABLE:
            if options.get(name) is not None:
                raise InputError(
                    f"the LMM attends with {name!r}, which flmm cannot look on; choose another LMM"
                )
        window, softcap = options.get("sliding_window"), options.get("softcap")
        assert window is None or isinstance(window, int)
        assert softcap is None or isinstance(softcap, float)
        recording.see_attention(module, query, key, attention_mask, scaling, window, softcap)
    own: Callable[..., tuple[Tensor, Tensor | None]] = getattr(
        sys.modules[type(module).__module__], "eager_attention_forward", sdpa_attention_forward
    )
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(underlying, own)
    output: tuple[Tensor, Tensor | None] = attend(
        module, query, key, value, attention_mask, scaling=scaling, **options
    )
    return output


def _registered(implementation: str) -> str:
    """The name under which transformers finds the recording twin of ``implementation``."""
    if implementation.startswith(_PREFIX):
        return implementation
    name = _PREFIX + implementation
    if name not in ALL_ATTENTION_FUNCTIONS:
        AttentionInterface.register(name, functools.partial(_attend, implementation))
        if implementation in ALL_MASK_ATTENTION_FUNCTIONS:
            AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[implementation])
    return name


def _text_configs(adapter: LMMAdapter) -> list[PreTrainedConfig]:
    """Every configuration object that the LLM's modules read; some hold copies of their own."""
    configs = [getattr(module, "config", None) for module in adapter.text_model.modules()]
    return list({id(c): c for c in configs if isinstance(c, PreTrainedConfig)}.values())


def _hidden_hook(
    recording: Recording,
    layer: int,
    _module: nn.Module,
    _inputs: tuple[object, ...],
    output: Tensor | tuple[Tensor, ...],
) -> None:
    # A hook runs for every thread that uses the model; only one of them is recording.
    if _active.get() is recording:
        recording.see_hidden(layer, output if isinstance(output, Tensor) else output[0])


def _joined(states: list[Tensor], none: Tensor) -> Tensor:
    return states[0] if len(states) == 1 else torch.cat([none, *states], dim=1)
