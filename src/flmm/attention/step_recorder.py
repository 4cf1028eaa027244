"""Recording of the steps of the decoding engine: queries and hidden states, kept as they are.

A row of attention can be computed as long as the cache has the keys, so a step itself only keeps
its queries; ``SequenceRecord`` computes the rows of several steps at once.

Letters: ``B`` sequences, ``N`` heads, ``N_kv`` key heads, ``K`` keys, ``D`` LLM width, ``d`` a
head's width.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from flmm.attention.recordable import average_streams, check_attention_options
from flmm.lmm.base import LMMAdapter


@dataclass(frozen=True)
class LayerAttention:
    """The arguments of one layer's attention in a step."""

    query: Tensor
    """(B, N, 1, d)."""
    key: Tensor
    """(B, N_kv, K, d): a view of the cache, where each sequence's keys begin at the first."""
    scaling: float
    softcap: float | None
    sinks: Tensor | None
    """(N,): the score of one more key of each head."""


class RecordedStep:
    """What one step computes for all sequences."""

    def __init__(self, layers: int) -> None:
        self.attentions: list[LayerAttention | None] = [None] * layers
        """None for a layer that does not use transformers' attention interface."""
        self.hidden_states: list[Tensor] = []
        """Each layer's (B, 1, D) output; that of the LLM's last layer after the final norm."""
        self.final_states: Tensor
        """(B, 1, D) after the final norm."""


class StepRecorder:
    """Records those steps of one decoding batch that ``start_step`` begins."""

    def __init__(self, adapter: LMMAdapter) -> None:
        self._layer_indices = {
            module: index
            for index, layer in enumerate(adapter.recorded_layers)
            for module in layer.modules()
        }
        self._layers = adapter.layers
        self._width = adapter.hidden_size
        self._last_is_recorded = adapter.recorded_layers[-1] is adapter.decoder_layers[-1]
        self._step: RecordedStep | None = None

    def start_step(self) -> RecordedStep:
        """Record what follows, until ``end_step``."""
        self._step = RecordedStep(self._layers)
        return self._step

    def end_step(self) -> None:
        """Record nothing until the next ``start_step``."""
        self._step = None

    def record_attention(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        _mask: Tensor | None,
        scaling: float | None = None,
        softcap: float | None = None,
        s_aux: Tensor | None = None,
        **options: object,
    ) -> None:
        """Keep a layer's query; called before the model's own attention, with its arguments.

        Raises:
            InputError: the model attends in a way that cannot be recorded.
        """
        layer = self._layer_indices.get(module)
        if self._step is None or layer is None:
            return
        check_attention_options(module, options)
        scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
        self._step.attentions[layer] = LayerAttention(query, key, scaling, softcap, s_aux)

    def record_hidden_states(self, layer: int | None, states: Tensor) -> None:
        """Keep a layer's (B, 1, D) output, or the final norm's; called by a forward hook."""
        if self._step is None:
            return
        states = average_streams(states, self._width)
        if layer is not None:
            self._step.hidden_states.append(states)
            return
        self._step.final_states = states
        if self._last_is_recorded:
            self._step.hidden_states.append(states)
