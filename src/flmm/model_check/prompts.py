"""Whether an LMM's prompts are those of its own processor in transformers."""

from collections.abc import Callable, Mapping, Sequence
from typing import cast

from PIL import Image
from torch import Tensor
from transformers.processing_utils import ProcessorMixin

from flmm.errors import first_line
from flmm.lmm.base import LMMAdapter
from flmm.lmm.generic.processor import load_processor
from flmm.lmm.message import Message
from flmm.model_check.outcome import CheckOutcome

_QUESTION = "What is in the picture?"
_CHECK = "prompt"


def check_prompts(adapter: LMMAdapter, pictures: Sequence[Image.Image]) -> CheckOutcome:
    """Compare the prompt of a question about each picture with the processor's, token by token."""
    tokens = 0
    # What processors raise if a file or a setting is missing differs from one to the next.
    try:
        processor = load_processor(
            adapter.name,
            adapter.revision,
            adapter.model.config,
            adapter.image_processor,
            adapter.tokenizer,
        )
        for picture in pictures:
            prompt = adapter.build_prompt(picture, _QUESTION).inputs["input_ids"]
            expected = _process(adapter, processor, picture)
            if not prompt.equal(expected):
                return CheckOutcome(
                    _CHECK,
                    "not ok",
                    f"{prompt.shape[1]} tokens for a picture of {picture.width}×{picture.height}"
                    f" pixels, not those of the model's own processor ({expected.shape[1]})",
                )
            tokens += prompt.shape[1]
    except Exception as error:
        reason = f"the model's own processor cannot be used ({first_line(error)})"
        return CheckOutcome(_CHECK, "not checked", reason)
    name = type(processor).__name__
    return CheckOutcome(_CHECK, "ok", f"{tokens} tokens, those of {name}", {"tokens": tokens})


def _process(adapter: LMMAdapter, processor: ProcessorMixin, picture: Image.Image) -> Tensor:
    """Return the (1, L) tokens that the processor makes of the question about the picture."""
    chat = adapter.render_chat([Message("user", _QUESTION, (picture,))], None)
    run = cast(Callable[..., Mapping[str, Tensor]], processor)
    return run(
        images=[[picture]],
        # PaliGemma's, which holds no conversation, adds the picture to the question itself.
        text=[chat.text if adapter.supports_conversation else _QUESTION],
        add_special_tokens=not chat.has_special_tokens,
        return_tensors="pt",
    )["input_ids"]
