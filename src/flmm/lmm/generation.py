"""The result of a generation, a streamer with a callback, and sampling settings.

Letters: ``T`` tokens of the answer.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from flmm.errors import InputError


@dataclass(frozen=True)
class Generation:
    """A generated answer: its tokens without the end-of-sequence token, and their text."""

    token_ids: Tensor
    """(T,) int64, on the CPU."""
    text: str


@dataclass
class CallbackStreamer(BaseStreamer):
    """A streamer that calls a function with each new token; ``generate`` puts the prompt first."""

    on_token: Callable[[int], None]
    prompt_skipped: bool = field(default=False, init=False)

    def put(self, value: Tensor) -> None:
        if self.prompt_skipped:
            self.on_token(int(value.item()))
        self.prompt_skipped = True

    def end(self) -> None:
        """Do nothing: no token is buffered."""


def sampling_kwargs(temperature: float) -> dict[str, float | bool | None]:
    """Return the arguments of ``generate``: greedy decoding at temperature 0, else sampling.

    Raises:
        InputError: ``temperature`` is below 0.
    """
    if temperature < 0:
        raise InputError(f"temperature is {temperature}; give 0 (no sampling) or more")
    if temperature > 0:
        return {"do_sample": True, "temperature": temperature}
    return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
