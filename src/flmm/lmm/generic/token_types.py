"""Inputs that mark the kinds of tokens, read from the output of a model's own processor.

Letters: ``L`` tokens of a text.
"""

from collections.abc import Mapping, Set

import torch
from torch import Tensor
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

_MROPE_INPUT = "mm_token_type_ids"


def is_text_input(processed: Mapping[str, Tensor], name: str) -> bool:
    """Tell whether an output of a processor has one number for each token of the text, (1, L)."""
    value, token_ids = processed[name], processed["input_ids"]
    return value.shape == token_ids.shape and not value.is_floating_point()


def find_marked_tokens(
    processed: Mapping[str, Tensor],
    accepted: Set[str],
    tokenizer: PreTrainedTokenizerBase,
    image_token_id: int,
) -> dict[str, Tensor]:
    """Find which tokens each input marks with 1 that is 0 for all others.

    Args:
        processed: the processor's output for a picture and a text.
        accepted: the inputs that the model takes.
        tokenizer: the processor's.
        image_token_id: the token of the image features.

    Returns:
        The (tokens,) int64 ids that it marks, by the input's name.

    Raises:
        ValueError: an input has other numbers, or marks words.
    """
    token_ids = processed["input_ids"]
    added = torch.tensor(sorted(tokenizer.added_tokens_decoder), dtype=token_ids.dtype)
    marked = {}
    for name, value in processed.items():
        if name in ("input_ids", "attention_mask") or not is_text_input(processed, name):
            continue
        if name not in accepted:
            continue
        tokens = torch.tensor(sorted(set(token_ids[value == 1].tolist())), dtype=token_ids.dtype)
        is_marked = torch.isin(token_ids, tokens)
        if not torch.equal(value, is_marked.to(value.dtype)) or not torch.isin(tokens, added).all():
            raise ValueError(f"its input {name} is not 1 for image tokens and 0 for text")
        marked[name] = tokens
    # Models with M-RoPE need theirs even where the processor must be asked for it.
    if _MROPE_INPUT in accepted:
        marked.setdefault(_MROPE_INPUT, torch.tensor([image_token_id]))
    return marked
