"""Helpers of the contract tests: pictures, conversations, references computed by transformers."""

import torch
from PIL import Image
from torch import Tensor, nn
from transformers.configuration_utils import PreTrainedConfig

from flmm.attention.eager import eager_attention
from flmm.lmm.base import LMMAdapter
from flmm.lmm.message import Message
from flmm.lmm.prompt import Prompt

PICTURE_SIZES = [(1, 1), (7, 640), (32, 32), (50, 40), (33, 97), (4000, 20), (20, 4000)]
"""(width, height)."""
ANSWERS = ["the cat and the dog", "café 🐈‍⬛ on the grass, twice: the cat", "x"]


def noise_picture(width: int = 50, height: int = 40) -> Image.Image:
    """Return noise, always the same for a size."""
    generator = torch.Generator().manual_seed(width * 4001 + height)
    pixels = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def conversation_history() -> list[Message]:
    """Return a system prompt, a question about a picture, and its answer."""
    return [
        Message("system", "You point at things."),
        Message("user", "what is it?", (noise_picture(41, 30),)),
        Message("assistant", "it is the cat"),
    ]


def attention_implementations(model: nn.Module) -> list[str]:
    """Return the attention implementation that each module is set to."""
    configs = [getattr(module, "config", None) for module in model.modules()]
    return [str(c._attn_implementation) for c in configs if isinstance(c, PreTrainedConfig)]


def visible_tokens(adapter: LMMAdapter) -> int:
    """Return the most tokens that a layer with a window, chunks or a top-k sees; 0 without one."""
    config = adapter.text_model.config
    kinds = getattr(config, "layer_types", None)
    limits = {
        "sliding_window": "sliding_attention",
        "attention_chunk_size": "chunked_attention",
        "index_topk": "indexed_attention",
        "indexer_budget": "indexed_attention",
    }
    found = [getattr(config, n, None) for n, kind in limits.items() if not kinds or kind in kinds]
    if (block_size := getattr(config, "index_block_size", None)) is not None:
        found.append(config.index_topk_blocks * block_size)
    return max((limit for limit in found if limit is not None), default=0)


def count_forward_hooks(adapter: LMMAdapter) -> int:
    """Return the number of forward hooks, also of those before, on the model's modules."""
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks)
        for module in adapter.model.modules()
    )


def eager_reference(
    adapter: LMMAdapter, prompt: Prompt, start: int, count: int
) -> tuple[Tensor, Tensor]:
    """Return (M, N, T, L) and (M, T, D) from transformers' eager outputs, without the recorder.

    L is the number of the vision encoder's outputs for an LLM that attends to them.
    """
    if not adapter.image_tokens_in_sequence:
        return _cross_attention_reference(adapter, prompt, slice(start, start + count))
    # A hybrid LLM outputs attention of some layers but hidden states of all.
    kinds = getattr(adapter.text_model.config, "layer_types", None)
    recorded = [
        1 + index
        for index in range(adapter.text_model.config.num_hidden_layers)
        if kinds is None or kinds[index] not in ("linear_attention", "conv")
    ]
    with eager_attention(adapter.model):
        inputs = adapter.collate([prompt], keep_pixels=True).inputs
        output = adapter.model(**inputs, output_attentions=True, output_hidden_states=True)
    rows = torch.stack(output.attentions)[:, 0, :, start : start + count]
    states = [output.hidden_states[index][0, start : start + count] for index in recorded]
    # Layers may keep several residual streams, one after the other, whose mean is recorded.
    streams = [layer.reshape(count, -1, adapter.hidden_size) for layer in states]
    return rows, torch.stack([layer.mean(dim=1) for layer in streams])


def _cross_attention_reference(
    adapter: LMMAdapter, prompt: Prompt, span: slice
) -> tuple[Tensor, Tensor]:
    """Return ``eager_reference``; transformers does not output all cross-attention."""
    rows: list[Tensor] = []
    states: list[Tensor] = []
    handles = []
    for layer in adapter.text_model.modules():
        attention = getattr(layer, "cross_attn", None)
        if isinstance(attention, nn.Module):
            handles += [
                attention.register_forward_hook(
                    lambda _module, _inputs, output: rows.append(output[1][0, :, span])
                ),
                layer.register_forward_hook(
                    lambda _module, _inputs, output: states.append(output[0, span])
                ),
            ]
    with eager_attention(adapter.model):
        adapter.model(**adapter.collate([prompt], keep_pixels=True).inputs)
    for handle in handles:
        handle.remove()
    return torch.stack(rows), torch.stack(states)


def text_modules(adapter: LMMAdapter) -> set[nn.Module]:
    """Return the LLM's modules, without its output layer."""
    # That of the first IDEFICS has the vision tower in it.
    tower = getattr(adapter.text_model, "vision_model", None)
    modules = set(adapter.text_model.modules())
    return modules - set(tower.modules()) if isinstance(tower, nn.Module) else modules


def extend_prompt(adapter: LMMAdapter, prompt: Prompt, token_ids: Tensor) -> Prompt:
    """Return the prompt with generated tokens after it."""
    whole = torch.cat([prompt.inputs["input_ids"][0], token_ids])
    inputs = {
        **prompt.inputs,
        "input_ids": whole[None],
        "attention_mask": torch.ones(1, len(whole)),
    }
    for name in adapter.sequence_input_names:
        # What is generated sees what the prompt's last token sees.
        seen = prompt.inputs[name]
        added = seen[:, -1:].expand(-1, len(token_ids), *seen.shape[2:])
        inputs[name] = torch.cat([seen, added], dim=1)
    is_answer = torch.arange(len(whole)) >= prompt.length
    for name, token_types in adapter.compute_token_type_ids(whole, is_answer).items():
        inputs[name] = token_types[None]
    return Prompt(
        inputs=inputs,
        picture_views=prompt.picture_views,
        question=prompt.question,
        question_start=prompt.question_start,
        question_offsets=prompt.question_offsets,
        answer_start=prompt.length,
        image_tokens_in_sequence=prompt.image_tokens_in_sequence,
    )


def image_token_states(adapter: LMMAdapter, prompt: Prompt) -> Tensor:
    """Return what the LLM is given, (L, D), at its image tokens' positions among others.

    These are the embeddings for its first layer, or the vision encoder's outputs for an LLM that
    attends to them.
    """
    if not adapter.image_tokens_in_sequence:
        (states,) = adapter.collate([prompt]).picture_inputs.values()
        assert isinstance(states, Tensor)
        return states[0].reshape(-1, states.shape[-1])
    inputs = adapter.collate([prompt], keep_pixels=True).inputs
    output = adapter.model(**inputs, output_hidden_states=True)
    embeddings: Tensor = output.hidden_states[0][0]
    return embeddings.flatten(1)
