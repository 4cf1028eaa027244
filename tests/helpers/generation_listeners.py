"""A listener to generated answers that keeps all that it receives."""

from dataclasses import dataclass, field

from torch import Tensor

from flmm.attention.generation_step import GenerationStep
from flmm.attention.trace import Trace
from flmm.lmm.prompt import Prompt
from flmm.lmm.sampling import SamplingParams


@dataclass
class CollectingListener:
    """A ``GenerationListener`` that keeps the steps, the tokens and the trace."""

    prompt: Prompt
    max_new_tokens: int = 8
    sampling_params: SamplingParams = field(default_factory=SamplingParams)
    wants_trace: bool = True
    max_steps: int = 100
    """The number of steps after which the listener stops."""
    steps: list[GenerationStep] = field(default_factory=list)
    token_ids: Tensor | None = None
    trace: Trace | None = None

    def on_step(self, step: GenerationStep) -> bool:
        assert self.token_ids is None
        self.steps.append(step)
        return len(self.steps) < self.max_steps

    def on_end(self, token_ids: Tensor, trace: Trace | None) -> None:
        assert self.token_ids is None
        self.token_ids, self.trace = token_ids, trace
