"""Packing: many conversations about one picture in one row, after one copy of its image tokens.

Tokens are those of the prompts that ``flmm`` itself builds, so that training and use agree.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers.models.aya_vision.modeling_aya_vision import AyaVisionForConditionalGeneration

from flmm.embedded_model.recipe.packing import TextBatch
from flmm.lmm.prompt import Prompt

IGNORED = -100


def pack_prompts(prompts: Sequence[Sequence[Prompt]], end_token_id: int) -> TextBatch:
    """Pack each picture's prompts, which end with an answer; ``end_token_id`` comes after it."""
    rows = [_pack_row(row, end_token_id) for row in prompts]
    longest = max(len(row[0]) for row in rows)

    def stack(column: int, fill: int) -> Tensor:
        return torch.tensor([row[column] + [fill] * (longest - len(row[column])) for row in rows])

    branches = stack(2, -1)
    causal = torch.ones(longest, longest, dtype=torch.bool).tril()
    same = branches[:, :, None] == branches[:, None, :]
    mask = causal & (same | (branches[:, None, :] == 0))
    pixels = torch.cat([row[0].inputs["pixel_values"] for row in prompts])
    return TextBatch(pixels, 1, stack(0, 0), stack(1, 0), mask[:, None], stack(3, IGNORED))


def _pack_row(
    prompts: Sequence[Prompt], end_token_id: int
) -> tuple[list[int], list[int], list[int], list[int]]:
    """Return ids, positions, branches (0 for what all share) and targets."""
    shared = int(prompts[0].image_token_positions.max()) + 1
    ids: list[int] = prompts[0].inputs["input_ids"][0, :shared].tolist()
    positions, branches, targets = list(range(shared)), [0] * shared, [IGNORED] * shared
    for branch, prompt in enumerate(prompts, 1):
        all_ids: list[int] = [*prompt.inputs["input_ids"][0].tolist(), end_token_id]
        assert all_ids[:shared] == ids[:shared]
        ids += all_ids[shared:]
        positions += range(shared, len(all_ids))
        branches += [branch] * (len(all_ids) - shared)
        answer = all_ids[prompt.answer_start :]
        targets += [IGNORED] * (prompt.answer_start - 1 - shared) + answer + [IGNORED]
    return ids, positions, branches, targets


def compute_last_hidden_states(lmm: AyaVisionForConditionalGeneration, batch: TextBatch) -> Tensor:
    """Compute the last layer's states, (B, L, width)."""
    embeddings: Tensor = lmm.get_input_embeddings()(batch.input_ids)
    image = compute_image_features(lmm, batch.pixel_values).to(embeddings.dtype)
    is_image = batch.input_ids == lmm.config.image_token_id
    embeddings = embeddings.masked_scatter(is_image[..., None], image)
    lowest = torch.finfo(embeddings.dtype).min
    mask = torch.zeros_like(batch.attention_mask, dtype=embeddings.dtype)
    states: Tensor = lmm.model.language_model(
        inputs_embeds=embeddings,
        attention_mask=mask.masked_fill_(~batch.attention_mask, lowest),
        position_ids=batch.position_ids,
        use_cache=False,
    ).last_hidden_state
    return states


def get_word_embedding(lmm: AyaVisionForConditionalGeneration) -> nn.Embedding:
    """Return the LLM's embedding of its vocabulary."""
    embedding = lmm.get_input_embeddings()
    assert isinstance(embedding, nn.Embedding)
    return embedding


def compute_image_features(lmm: AyaVisionForConditionalGeneration, pixel_values: Tensor) -> Tensor:
    """Compute the image tokens' embeddings, (B, 3, S, S) → (B, tokens, width)."""
    features: Tensor = lmm.get_image_features(
        pixel_values,
        vision_feature_layer=lmm.config.vision_feature_layer,
        vision_feature_select_strategy=lmm.config.vision_feature_select_strategy,
    ).pooler_output
    return features
