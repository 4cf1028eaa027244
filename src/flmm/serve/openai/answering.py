"""From a request to its response, for both of OpenAI's interfaces."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from fastapi import Request
from pydantic import BaseModel
from starlette.responses import Response

from flmm.lmm.message import Message
from flmm.lmm.sampling import SamplingParams
from flmm.serve.common.job_group import JobGroup
from flmm.serve.common.request_models import Grounding, SamplingOptions
from flmm.serve.common.responses import (
    EventEncoder,
    EventStreamResponse,
    respond_when_finished,
)
from flmm.serve.errors import APIError
from flmm.serve.openai.message_models import ChatMessage
from flmm.serve.openai.messages import read_conversation
from flmm.serve.openai.request_models import ChatRequest
from flmm.serve.openai.responses.request_models import ResponsesRequest
from flmm.serve.protection.request_bodies import read_json
from flmm.serve.service import Service
from flmm.serve.workers.chat_inputs import ChatInputs
from flmm.serve.workers.events import AnswerFinished
from flmm.serve.workers.job import Slot
from flmm.stopwatch import Stopwatch

Body = TypeVar("Body", ChatRequest, ResponsesRequest)


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


class Replies(EventEncoder, Protocol):
    """Builds an interface's replies, whole ones too."""

    def build_reply(self, events: Sequence[AnswerFinished]) -> BaseModel:
        """Return all answers as one reply."""


async def respond_to_question(
    request: Request,
    service: Service,
    model: type[Body],
    build_question: Callable[[Body], Question],
    create_replies: Callable[[Body, int], Replies],
) -> Response:
    """Return the response to a request of either interface.

    Args:
        request: whose body is read.
        service: the server's.
        model: of the body.
        build_question: returns what a body asks.
        create_replies: returns the builder of its replies, given how many tokens the prompt has.

    Raises:
        APIError: the request does not fit the model, exceeds a limit, or all slots are taken.
        InputError: the model cannot take it.
    """
    with service.admit() as slot:
        body = await read_json(request, model, service.limits, service.unused_fields)
        _check_model(service, body.model)
        question = build_question(body)
        jobs, prompt_length = await _submit_question(service, slot, question)
    replies = create_replies(body, prompt_length)
    if question.stream:
        return EventStreamResponse(jobs, replies)
    return await respond_when_finished(request, jobs, AnswerFinished, replies.build_reply)


def _check_model(service: Service, name: str) -> None:
    if name != service.pipeline.model_name:
        raise APIError(
            404,
            "model_not_found",
            f"there is no model {name[:200]!r}; this server has {service.pipeline.model_name!r}",
            "model",
        )


async def _submit_question(
    service: Service, slot: Slot, question: Question
) -> tuple[JobGroup, int]:
    """Read a question's pictures, and queue a job for each answer.

    ``slot`` is the first answer's; each other one gets its own. Returns the jobs, and how many
    tokens the prompt has.
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
    return JobGroup(jobs), inputs.prompt.length


def _vary_seed(params: SamplingParams, index: int) -> SamplingParams:
    """Return the settings of one of several answers: each has its own seed, if one is given."""
    if params.seed is None:
        return params
    # After the largest seed of 64 bits comes the smallest.
    return replace(params, seed=(params.seed + index + 2**63) % 2**64 - 2**63)
