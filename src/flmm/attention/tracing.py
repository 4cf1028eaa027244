"""Traces: what the frozen LMM's attention and hidden states were for each token of a text.

Letters: ``B`` sequences, ``R`` recorded rows a sequence.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from flmm.attention.recorder import AttentionRecorder, record
from flmm.attention.trace import PictureAttention, RecordedRows, Trace
from flmm.errors import InputError
from flmm.lmm.base import LMMAdapter
from flmm.lmm.prompt import Prompt, PromptBatch


@dataclass(frozen=True)
class GenerationStep:
    """One token of an answer, just said."""

    token_id: int
    text: str
    """The answer so far, this token included."""
    num_recorded: int
    """How many tokens' rows are known by now: all before this one."""
    hidden_states: Callable[[int], Tensor]
    """Gives those of the known tokens, (M, known - first, D), from the ``first`` one on."""
    trace: Callable[[], Trace]
    """Makes the trace of the known tokens."""


def trace_text(adapter: LMMAdapter, prompt: Prompt) -> Trace:
    """The trace of a given answer: one forward pass, no sampling.

    Raises:
        InputError: the prompt was prepared without an answer.
    """
    return trace_texts(adapter, [prompt])[0]


def trace_texts(
    adapter: LMMAdapter,
    prompts: Sequence[Prompt],
    part: Literal["answer", "question"] = "answer",
) -> list[Trace]:
    """The traces of given answers (or of the questions) in one forward pass, padded on the left.

    The vocabulary's head does not run. Prompts of like length waste least.

    Raises:
        InputError: answers are wanted of a prompt that was prepared without one.
    """
    if not prompts:
        return []
    batch = adapter.collate(prompts)
    spans = [_token_span(prompt, part) for prompt in prompts]
    positions = _row_positions(batch, spans).to(adapter.device)
    columns = batch.image_token_positions.to(adapter.device)
    with record(AttentionRecorder(adapter, columns, positions), adapter) as recording:
        adapter.model.base_model(**batch.model_inputs, use_cache=False)
    hidden = recording.hidden_states()
    traces = []
    for index, (prompt, (start, count)) in enumerate(zip(prompts, spans, strict=True)):
        traces.append(
            Trace(
                token_ids=prompt.inputs["input_ids"][0, start : start + count],
                picture_attentions=split_by_picture(recording.rows(index, count), prompt),
                hidden_states=hidden[:, index, :count],
            )
        )
    return traces


def trace_generation(
    adapter: LMMAdapter,
    prompt: Prompt,
    max_new_tokens: int = 256,
    on_step: Callable[[GenerationStep], None] | None = None,
    temperature: float = 0.0,
) -> tuple[Trace, str]:
    """What the model says, exactly as ``adapter.generate`` alone gives it, and its trace.

    Each token's row is recorded as the token is fed back in, so there is no second pass.
    ``on_token`` is called with each token of the answer as it is said.
    """
    said: list[int] = []
    recording = AttentionRecorder(adapter, prompt.image_token_positions[None].to(adapter.device))

    def trace(token_ids: Tensor) -> Trace:
        count = len(token_ids)
        return Trace(
            token_ids=token_ids,
            picture_attentions=split_by_picture(recording.rows(0, count), prompt),
            hidden_states=recording.hidden_states()[:, 0, :count],
        )

    def on_token_id(token_id: int) -> None:
        if on_step is None or len(said) >= max_new_tokens or token_id in adapter.eos_token_ids:
            return
        said.append(token_id)
        so_far = torch.tensor(said)
        known = so_far[: recording.num_recorded]

        def hidden_states(first: int) -> Tensor:
            return recording.hidden_states(first)[:, 0, : len(known) - first]

        text = adapter.decode(so_far)
        on_step(GenerationStep(token_id, text, len(known), hidden_states, lambda: trace(known)))

    with record(recording, adapter):
        # One token too many is asked for, since a token's row is known only once it is fed back.
        generation = adapter.generate(
            prompt, max_new_tokens + 1, temperature, None if on_step is None else on_token_id
        )
    token_ids = generation.token_ids[:max_new_tokens]
    return trace(token_ids), adapter.decode(token_ids)


def split_by_picture(rows: RecordedRows, prompt: Prompt) -> tuple[PictureAttention, ...]:
    """A sequence's rows as the attention to each picture of its prompt."""
    pictures = []
    start = 0
    for views in prompt.picture_views:
        pictures.append(PictureAttention(rows, views, start))
        start += sum(view.token_positions.numel() for view in views)
    return tuple(pictures)


def _token_span(prompt: Prompt, part: Literal["answer", "question"]) -> tuple[int, int]:
    """(first position, number of tokens) of the wanted text."""
    if part == "question":
        return prompt.question_start, len(prompt.question_offsets)
    if prompt.answer_offsets is None:
        raise InputError(
            f"the prompt for {prompt.question!r} has no answer to trace;"
            " give prepare one, or use trace_generation"
        )
    return prompt.answer_start, len(prompt.answer_offsets)


def _row_positions(batch: PromptBatch, spans: Sequence[tuple[int, int]]) -> Tensor:
    """(B, R): the positions of each item's tokens; shorter items repeat their last, cut later."""
    rows = torch.arange(max(max(count for _, count in spans), 1))
    return torch.stack(
        [
            (start + before + rows).clamp(max=start + before + count - 1)
            for (start, count), before in zip(spans, batch.left_padding, strict=True)
        ]
    )
