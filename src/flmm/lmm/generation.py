"""What a model says, and how each token of it is heard.

Letters: ``T`` tokens of the answer.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from flmm.errors import InputError


@dataclass(frozen=True)
class Generation:
    """What the model said: its tokens without the closing end-of-sequence token, and their text."""

    token_ids: Tensor
    """(T,) int64, on the CPU."""
    text: str


@dataclass
class CallbackStreamer(BaseStreamer):
    """Hands each new token to a function; ``generate`` pushes the prompt first."""

    on_token: Callable[[int], None]
    prompt_skipped: bool = field(default=False, init=False)

    def put(self, value: Tensor) -> None:
        if self.prompt_skipped:
            self.on_token(int(value.item()))
        self.prompt_skipped = True

    def end(self) -> None:
        """Nothing is held back."""


def sampling_kwargs(temperature: float) -> dict[str, float | bool | None]:
    """What tells ``generate`` how to choose tokens: the likeliest at 0, else by chance.

    Raises:
        InputError: ``temperature`` is below 0.
    """
    if temperature < 0:
        raise InputError(f"temperature is {temperature}; give 0 (no chance) or more")
    if temperature > 0:
        return {"do_sample": True, "temperature": temperature}
    return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
