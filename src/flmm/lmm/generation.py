"""Generation of one answer: its result, a streamer with a callback, and sampling settings.

Letters: ``T`` tokens of the answer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

from torch import Tensor
from transformers.generation.logits_process import LogitsProcessorList
from transformers.generation.streamers import BaseStreamer

from flmm.errors import InputError
from flmm.lmm.frozen_model import FrozenModel
from flmm.lmm.prompt import Prompt
from flmm.lmm.sampling import FixedAnswerLogitsProcessor


@dataclass(frozen=True)
class Generation:
    """A generated answer: its tokens without the end-of-sequence token, and their text."""

    token_ids: Tensor
    """(T,) int64, on the CPU."""
    text: str


def generate_answer(
    model: FrozenModel,
    inputs: Mapping[str, object],
    prompt: Prompt,
    max_new_tokens: int,
    temperature: float,
    on_token: Callable[[int], None] | None,
) -> Generation:
    """Generate the answer to one prompt; the arguments are those of ``LMMAdapter.generate``.

    Args:
        model: the frozen LMM.
        inputs: the keyword arguments of its ``generate``.
        prompt: which these are of.

    Raises:
        InputError: ``max_new_tokens`` is below 1 or ``temperature`` below 0.
    """
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens is {max_new_tokens}; give at least 1")
    settings = _sampling_kwargs(temperature)
    if fixed_answer := model.find_fixed_answer(prompt):
        processor = FixedAnswerLogitsProcessor(fixed_answer, prompt.length)
        settings["logits_processor"] = LogitsProcessorList([processor])
    # transformers types generate for a protocol that its models do not fulfil.
    sequences = cast(Callable[..., Tensor], model.model.generate)(
        **inputs,
        **settings,
        max_new_tokens=max_new_tokens,
        num_beams=1,
        pad_token_id=model.pad_token_id,
        streamer=None if on_token is None else _CallbackStreamer(on_token),
    )
    token_ids = sequences[0, prompt.length :].cpu()
    if len(token_ids) and int(token_ids[-1]) in model.eos_token_ids:
        token_ids = token_ids[:-1]
    return Generation(token_ids, model.decode(token_ids))


@dataclass
class _CallbackStreamer(BaseStreamer):
    """A streamer that calls a function with each new token; ``generate`` puts the prompt first."""

    on_token: Callable[[int], None]
    prompt_skipped: bool = field(default=False, init=False)

    def put(self, value: Tensor) -> None:
        if self.prompt_skipped:
            self.on_token(int(value.item()))
        self.prompt_skipped = True

    def end(self) -> None:
        """Do nothing: no token is buffered."""


def _sampling_kwargs(temperature: float) -> dict[str, object]:
    """Return the arguments of ``generate``: greedy decoding at temperature 0, else sampling.

    Raises:
        InputError: ``temperature`` is below 0.
    """
    if temperature < 0:
        raise InputError(f"temperature is {temperature}; give 0 (no sampling) or more")
    if temperature > 0:
        return {"do_sample": True, "temperature": temperature}
    return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
