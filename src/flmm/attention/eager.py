"""The attention rows that transformers' eager attention outputs, to compare recorded ones with.

Letters: ``M`` layers, ``N`` heads, ``T`` tokens of the answer, ``C`` image tokens, ``L`` tokens of
the whole sequence.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from transformers.configuration_utils import PreTrainedConfig

from flmm.attention.interception import intercept_attention
from flmm.errors import InputError
from flmm.lmm.base import LMMAdapter
from flmm.lmm.prompt import Prompt


def model_configs(model: nn.Module) -> list[PreTrainedConfig]:
    """Return every configuration that some module of the model has, each once."""
    configs = [getattr(module, "config", None) for module in model.modules()]
    return list({id(c): c for c in configs if isinstance(c, PreTrainedConfig)}.values())


@contextmanager
def eager_attention(model: nn.Module) -> Iterator[None]:
    """Set a model, or a part of one, to eager attention, which computes every L×L matrix."""
    configs = model_configs(model)
    before = [config._attn_implementation for config in configs]
    for config in configs:
        config._attn_implementation = "eager"
    try:
        yield
    finally:
        for config, implementation in zip(configs, before, strict=True):
            config._attn_implementation = implementation


class LayerInputs:
    """The hidden states that decoder layers are given in one pass, for the same layers in another.

    So every layer's attention is compared alone, and no rounding of earlier layers adds up.
    """

    def __init__(self, adapter: LMMAdapter) -> None:
        self._layers = list(adapter.decoder_layers)
        self._states: dict[nn.Module, list[Tensor]] = {layer: [] for layer in self._layers}

    @contextmanager
    def capture(self) -> Iterator[None]:
        """Keep what the layers are given inside the ``with`` block."""

        def keep(layer: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
            states = args[0] if args else kwargs["hidden_states"]
            assert isinstance(states, Tensor)
            self._states[layer].append(states.clone())

        with self._hooks(keep):
            yield

    @contextmanager
    def give(self) -> Iterator[None]:
        """Give the layers what was kept, in the same order, inside the ``with`` block."""
        kept = {layer: iter(states) for layer, states in self._states.items()}

        def replace(
            layer: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
        ) -> tuple[tuple[object, ...], dict[str, object]]:
            states = next(kept[layer])
            return (
                ((states, *args[1:]), kwargs)
                if args
                else (args, {**kwargs, "hidden_states": states})
            )

        with self._hooks(replace):
            yield

    @contextmanager
    def _hooks(self, hook: Callable[..., object]) -> Iterator[None]:
        with ExitStack() as undo:
            for layer in self._layers:
                handle = layer.register_forward_pre_hook(hook, with_kwargs=True)
                undo.callback(handle.remove)
            yield


@torch.no_grad()
def compute_eager_rows(adapter: LMMAdapter, prompt: Prompt, inputs: LayerInputs) -> Tensor:
    """Return the rows of a given answer by transformers' eager attention: (M, N, T, C) float32.

    The model's own eager function is called in float32 on the queries and keys of one pass with
    eager attention, since half types round scores that sdpa keeps exact.

    Raises:
        InputError: the model has no eager attention function.
    """
    assert prompt.answer_offsets is not None
    answer = slice(prompt.answer_start, prompt.answer_start + len(prompt.answer_offsets))
    columns = prompt.image_token_positions.to(adapter.device)
    layer_of = {
        module: index
        for index, layer in enumerate(adapter.recorded_layers)
        for module in layer.modules()
    }
    rows: dict[int, Tensor] = {}

    def attend(
        module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, **options: object
    ) -> None:
        if module not in layer_of:
            return
        eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
        if eager is None:
            raise InputError(f"{type(module).__name__} has no eager attention to compare with")
        keys = key.float()
        added = mask.float() if mask is not None and mask.is_floating_point() else mask
        # What the values are does not matter to the weights.
        _, weights = eager(module, query.float(), keys, keys, added, **options)
        rows[layer_of[module]] = weights[0, :, answer][..., columns.to(weights.device)].cpu()

    with (
        adapter.recording_lock,
        eager_attention(adapter.model),
        inputs.give(),
        intercept_attention(attend),
    ):
        adapter.model.base_model(**adapter.collate([prompt]).model_inputs, use_cache=False)
    if missing := set(range(adapter.layers)) - rows.keys():
        raise InputError(f"layer {min(missing)} does not attend through transformers' interface")
    return torch.stack([rows[layer] for layer in range(adapter.layers)])
