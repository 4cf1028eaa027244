"""From the messages of a request to jobs in the model queue, for both of OpenAI's interfaces."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from flmm.lmm.message import Message
from flmm.lmm.sampling import SamplingParams
from flmm.serve.common.job_group import JobGroup
from flmm.serve.common.request_models import Grounding, SamplingOptions
from flmm.serve.errors import APIError
from flmm.serve.openai.message_models import ChatMessage
from flmm.serve.openai.messages import read_conversation
from flmm.serve.service import Service
from flmm.serve.workers.chat_job import ChatInputs
from flmm.serve.workers.job import Slot
from flmm.stopwatch import Stopwatch


@dataclass(frozen=True)
class Question:
    """What a request asks, of either interface."""

    messages: Sequence[ChatMessage]
    field_name: str
    """The messages' field in the request, for errors."""
    options: SamplingOptions
    grounding: Grounding | None
    stream: bool
    num_answers: int = 1
    instructions: str = ""
    """A system message before all others; empty for none."""


@dataclass(frozen=True)
class SubmittedQuestion:
    """A question whose jobs are in the model queue."""

    jobs: JobGroup
    """One for each answer."""
    prompt_length: int
    """Tokens, those of the pictures included."""


def check_model(service: Service, name: str) -> None:
    """Raise APIError if the server has no such model."""
    if name != service.pipeline.model_name:
        raise APIError(
            404,
            "model_not_found",
            f"there is no model {name[:200]!r}; this server has {service.pipeline.model_name!r}",
            "model",
        )


async def submit_question(service: Service, slot: Slot, question: Question) -> SubmittedQuestion:
    """Read a question's pictures, and queue a job for each answer.

    Args:
        service: the server's.
        slot: of the first answer; each other one gets its own.
        question: what is asked.

    Raises:
        APIError: it exceeds a limit, or there are not enough slots.
        InputError: the model cannot take it.
    """
    most = min(service.settings.max_batch_size, service.settings.queue_capacity)
    if question.num_answers > most:
        raise APIError(
            400, "invalid_value", f"n is {question.num_answers}; this server gives {most} at most",
            "n",
        )  # fmt: skip
    stopwatch = Stopwatch()

    def prepare() -> ChatInputs:
        with stopwatch.stage("picture"):
            conversation = read_conversation(
                question.messages,
                service.limits.pictures,
                service.picture_reader.read_url,
                question.field_name,
            )
            if instructions := question.instructions.strip():
                conversation = conversation.begin_with(Message("system", instructions))
            return service.prepare_chat(
                conversation, question.options, question.grounding, question.stream
            )

    inputs = await service.run_in_thread(prepare)
    with ExitStack() as admitted:
        others = [admitted.enter_context(service.admit()) for _ in range(question.num_answers - 1)]
        jobs = [
            service.submit_chat(
                replace(inputs, sampling_params=_vary_seed(inputs.sampling_params, index)),
                own_slot,
                Stopwatch(dict(stopwatch.timings)),
            )
            for index, own_slot in enumerate([slot, *others])
        ]
    return SubmittedQuestion(JobGroup(jobs), inputs.prompt.length)


def _vary_seed(params: SamplingParams, index: int) -> SamplingParams:
    """Return the settings of one of several answers: each has its own seed, if one is given."""
    return params if params.seed is None else replace(params, seed=params.seed + index)
