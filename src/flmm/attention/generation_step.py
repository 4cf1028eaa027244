"""One step of a generation, as those see it who follow an answer while it is generated.

Letters: ``M`` layers, ``D`` LLM width.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from flmm.attention.trace import Trace
from flmm.lmm.prompt import Offsets


@dataclass(frozen=True)
class GenerationStep:
    """One generated token, and what is recorded so far."""

    token_id: int
    text: str
    """The answer so far: what no later token changes."""
    offsets: Callable[[int], Offsets]
    """From ``first`` to the offsets in the answer so far of token ``first`` and those after it;
    those in ``text`` are final."""
    num_recorded: int
    """Number of tokens whose rows are recorded: all before this one."""
    hidden_states: Callable[[int], Tensor]
    """From ``first`` to (M, num_recorded - first, D), the recorded tokens' states from there on."""
    trace: Callable[[], Trace]
    """The trace of the recorded tokens, built when called: during the step, or after the answer."""
