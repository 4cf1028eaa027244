"""Packing: many conversations about one picture in one row, after one copy of its image tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerFast
from transformers.modeling_utils import PreTrainedModel
from transformers.models.llava.modeling_llava import LlavaForConditionalGeneration

from flmm.embedded_model.recipe.lmm_architecture import (
    ASSISTANT_TOKEN,
    BEGIN_TOKEN,
    END_TOKEN,
    IMAGE_TOKEN,
    PADDING_TOKEN,
    PATCH_SIZE,
    USER_TOKEN,
    find_token_id,
)
from flmm.embedded_model.recipe.training_loop import TensorDataclass
from flmm.stickers.language import Conversation


@dataclass(frozen=True)
class TextBatch(TensorDataclass):
    """B pictures, each followed by several conversations that do not attend to each other."""

    pixel_values: Tensor
    """(B·V, 3, S, S): the V views of the first picture, then those of the next."""
    views_per_picture: int
    input_ids: Tensor
    """(B, L)."""
    position_ids: Tensor
    """(B, L): each conversation counts on from the image tokens."""
    attention_mask: Tensor
    """(B, 1, L, L) bool: whether a query (row) may attend to a key (column)."""
    targets: Tensor
    """(B, L): the next token if it belongs to an answer, else -100."""


def pack_conversations(
    tokenizer: PreTrainedTokenizerFast,
    pixel_values: Tensor,
    conversations: Sequence[Sequence[Conversation]],
    patch_size: int = PATCH_SIZE,
) -> TextBatch:
    """Pack each picture's conversations behind one copy of its image tokens.

    `pixel_values` are (B·V, 3, S, S) for the conversations of B pictures; `patch_size` is the side
    of the LMM's patches.
    """
    views = len(pixel_values) // len(conversations)
    image_tokens = views * (pixel_values.shape[-1] // patch_size) ** 2
    begin, user, image, assistant, end, padding = (
        find_token_id(tokenizer, token)
        for token in (
            BEGIN_TOKEN,
            USER_TOKEN,
            IMAGE_TOKEN,
            ASSISTANT_TOKEN,
            END_TOKEN,
            PADDING_TOKEN,
        )
    )
    prefix = [begin, user] + [image] * image_tokens
    rows: list[tuple[list[int], list[int], list[int], list[int]]] = []
    for texts in conversations:
        ids, positions, branches, targets = (
            list(prefix), list(range(len(prefix))), [0] * len(prefix), [-100] * len(prefix),
        )  # fmt: skip
        for branch, turns in enumerate(texts, 1):
            count = 0
            for turn_index, turn in enumerate(turns):
                question = [*tokenizer.encode(turn.question, add_special_tokens=False), assistant]
                if turn_index:
                    question = [user, *question]
                answer = [*tokenizer.encode(turn.answer, add_special_tokens=False), end]
                ids += question + answer
                count += len(question) + len(answer)
                targets += [-100] * (len(question) - 1) + answer + [-100]
            positions += range(len(prefix), len(prefix) + count)
            branches += [branch] * count
        rows.append((ids, positions, branches, targets))
    longest = max(len(row[0]) for row in rows)

    def stack(column: int, fill: int) -> Tensor:
        return torch.tensor([row[column] + [fill] * (longest - len(row[column])) for row in rows])

    branch_ids = stack(2, -1)
    causal = torch.ones(longest, longest, dtype=torch.bool).tril()
    same = branch_ids[:, :, None] == branch_ids[:, None, :]
    mask = causal & (same | (branch_ids[:, None, :] == 0))
    return TextBatch(
        pixel_values, views, stack(0, padding), stack(1, 0), mask[:, None], stack(3, -100)
    )


def text_loss(
    lmm: LlavaForConditionalGeneration, batch: TextBatch, patch_features: Tensor
) -> Tensor:
    """Return the answers' mean cross entropy; `patch_features` are the vision tower's."""
    return answer_loss(lmm, batch, compute_last_hidden_states(lmm, batch, patch_features))


def compute_last_hidden_states(
    lmm: LlavaForConditionalGeneration, batch: TextBatch, patch_features: Tensor
) -> Tensor:
    """Return the last layer's (B, L, width); `patch_features` are the vision tower's."""
    model = lmm.model
    embeddings = model.language_model.embed_tokens(batch.input_ids)
    first = 2  # after the begin and user tokens
    image = model.multi_modal_projector(patch_features)
    image = image.reshape(len(batch.input_ids), -1, image.shape[-1]).to(embeddings.dtype)
    embeddings = torch.cat(
        [embeddings[:, :first], image, embeddings[:, first + image.shape[1] :]], dim=1
    )
    lowest = torch.finfo(torch.float32).min
    mask = torch.zeros_like(batch.attention_mask, dtype=torch.float).masked_fill_(
        ~batch.attention_mask, lowest
    )
    states: Tensor = model.language_model(
        inputs_embeds=embeddings,
        attention_mask=mask,
        position_ids=batch.position_ids,
        use_cache=False,
    ).last_hidden_state
    return states


def answer_loss(lmm: PreTrainedModel, batch: TextBatch, hidden: Tensor) -> Tensor:
    """Return the answers' mean cross entropy; `hidden` is the last layer's (B, L, width)."""
    in_answer = batch.targets >= 0
    output = lmm.get_output_embeddings()  # type: ignore[no-untyped-call]
    logits = output(hidden[in_answer]).float()
    return functional.cross_entropy(logits, batch.targets[in_answer])
