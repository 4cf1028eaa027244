"""What stands for a picture in a chat, and what the model's own processor writes in its place."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from torch import Tensor
from transformers.processing_utils import ProcessorMixin
from transformers.tokenization_utils_base import PreTrainedTokenizerBase


def list_placeholders(
    processor: ProcessorMixin, tokenizer: PreTrainedTokenizerBase, image_token: str
) -> list[str]:
    """Return the texts that may stand for a picture, likeliest first.

    Processors name theirs ``image_token``, but some replace another token of theirs, and some none
    at all: then the chat template writes all image tokens.
    """
    tokens = {
        name: token
        for name, token in vars(processor).items()
        if name.endswith("_token") and isinstance(token, str) and token
    }
    named = sorted(tokens, key=lambda name: (name != "image_token", "image" not in name))
    return list(
        dict.fromkeys(
            [*(tokens[name] for name in named), *_find_template_runs(tokenizer, image_token)]
        )
    )


def _find_template_runs(tokenizer: PreTrainedTokenizerBase, image_token: str) -> Iterator[str]:
    """Yield the image tokens that the chat template writes for a picture, if it writes some."""
    if tokenizer.chat_template is None:
        return
    content = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
    # transformers' type hints allow only strings.
    message = cast(dict[str, str], {"role": "user", "content": content})
    text = tokenizer.apply_chat_template([message], tokenize=False)
    yield from re.findall(f"(?:{re.escape(image_token)})+", str(text))


def read_picture_text(processed: Mapping[str, object], tokenizer: PreTrainedTokenizerBase) -> str:
    """Return what a processor wrote in the place of a picture.

    Args:
        processed: its output for one picture and its placeholder as the text.
        tokenizer: the processor's.
    """
    replacements = cast(
        Sequence[Sequence[Mapping[str, str]]] | None, processed.get("text_replacement_offsets")
    )
    if replacements and replacements[0]:
        return replacements[0][0]["replacement"]
    # Some processors tell nothing, or replace nothing, since the placeholder is the whole text.
    (token_ids,) = cast(Tensor, processed["input_ids"])
    text = tokenizer.decode(
        token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    assert isinstance(text, str)
    return text
