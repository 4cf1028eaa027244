"""Traces of given and generated texts: attention and hidden states of each token.

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
from flmm.lmm.detokenizer import Detokenizer
from flmm.lmm.padding import group_for_padding
from flmm.lmm.places import check_places
from flmm.lmm.prompt import Offsets, Prompt, PromptBatch


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
    """The trace of the recorded tokens, built when called."""


def trace_text(adapter: LMMAdapter, prompt: Prompt) -> Trace:
    """Return the trace of a given answer, from one forward pass.

    Raises:
        InputError: the prompt was prepared without an answer.
    """
    return trace_texts(adapter, [prompt])[0]


def trace_texts(
    adapter: LMMAdapter,
    prompts: Sequence[Prompt],
    part: Literal["answer", "question"] = "answer",
) -> list[Trace]:
    """Return the traces of given answers (or of the questions) from one left-padded forward pass.

    The language-model head does not run. Prompts of similar length need the least padding; each
    length is a pass of its own for LLMs that padding would change.

    Raises:
        InputError: ``part`` is "answer" and a prompt has none, one is too long for the LMM, or
            image tokens have no places.
    """
    if not prompts:
        return []
    if any(prompt.picture_views for prompt in prompts):
        check_places(adapter)
    for prompt in prompts:
        adapter.remaining_context(prompt.length)
    traces = {
        index: trace
        for group in group_for_padding(adapter, prompts)
        for index, trace in zip(
            group, _trace_batch(adapter, [prompts[index] for index in group], part), strict=True
        )
    }
    return [traces[index] for index in range(len(prompts))]


def _trace_batch(
    adapter: LMMAdapter, prompts: Sequence[Prompt], part: Literal["answer", "question"]
) -> list[Trace]:
    batch = adapter.collate(prompts)
    spans = [_token_span(prompt, part) for prompt in prompts]
    positions = _row_positions(batch, spans).to(adapter.device)
    columns = batch.image_token_positions.to(adapter.device)
    with record(AttentionRecorder(adapter, columns, positions), adapter) as recorder:
        adapter.model.base_model(**batch.model_inputs, use_cache=False)
    hidden_states, final_states = recorder.hidden_states(), recorder.final_states()
    traces = []
    for index, (prompt, (start, count)) in enumerate(zip(prompts, spans, strict=True)):
        traces.append(
            Trace(
                token_ids=prompt.inputs["input_ids"][0, start : start + count],
                picture_attentions=split_by_picture(recorder.rows(index, count), prompt),
                hidden_states=hidden_states[:, index, :count],
                final_states=final_states[index, :count],
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
    """Generate an answer, the same as ``adapter.generate``; return its trace and text.

    Each token's row is recorded when the token is fed back, so there is no second pass.
    ``on_step`` is called with each generated token, except the end of the sequence. The answer is
    cut at ``max_new_tokens``, or where the LMM's context ends.

    Raises:
        InputError: the prompt leaves no room for an answer.
    """
    max_new_tokens = limit_new_tokens(adapter, prompt, max_new_tokens)
    generated: list[int] = []
    detokenizer = Detokenizer(adapter.tokenizer)
    recorder = AttentionRecorder(adapter, prompt.image_token_positions[None].to(adapter.device))

    def build_trace(token_ids: Tensor) -> Trace:
        count = len(token_ids)
        return Trace(
            token_ids=token_ids,
            picture_attentions=split_by_picture(recorder.rows(0, count), prompt),
            hidden_states=recorder.hidden_states()[:, 0, :count],
            final_states=recorder.final_states()[0, :count],
        )

    def on_token_id(token_id: int) -> None:
        is_extra = len(generated) >= max_new_tokens
        if on_step is None or is_extra or token_id in adapter.eos_token_ids:
            return
        generated.append(token_id)
        detokenizer.add(token_id)
        num_recorded = min(len(generated), recorder.num_recorded)

        def hidden_states(first: int) -> Tensor:
            return recorder.hidden_states(first)[:, 0, : num_recorded - first]

        on_step(
            GenerationStep(
                token_id=token_id,
                text=detokenizer.stable_text,
                offsets=detokenizer.offsets_from,
                num_recorded=num_recorded,
                hidden_states=hidden_states,
                trace=lambda: build_trace(
                    torch.tensor(generated[:num_recorded], dtype=torch.int64)
                ),
            )
        )

    with record(recorder, adapter):
        # A token's row is recorded when the token is fed back, so generate one more.
        generation = adapter.generate(
            prompt, max_new_tokens + 1, temperature, None if on_step is None else on_token_id
        )
    token_ids = generation.token_ids[:max_new_tokens]
    return build_trace(token_ids), adapter.decode(token_ids)


def limit_new_tokens(adapter: LMMAdapter, prompt: Prompt, max_new_tokens: int) -> int:
    """Return ``max_new_tokens``, or fewer where the LMM's context ends before.

    Raises:
        InputError: the prompt leaves no room for an answer.
    """
    # At least one token is generated, and one more than is returned (``trace_generation``).
    return min(max_new_tokens, adapter.remaining_context(prompt.length + 2) + 1)


def split_by_picture(rows: RecordedRows, prompt: Prompt) -> tuple[PictureAttention, ...]:
    """Split a sequence's rows into the attention to each picture of its prompt."""
    pictures = []
    start = 0
    for views in prompt.picture_views:
        pictures.append(PictureAttention(rows, views, start))
        start += sum(view.token_positions.numel() for view in views)
    return tuple(pictures)


def _token_span(prompt: Prompt, part: Literal["answer", "question"]) -> tuple[int, int]:
    """Return (first position, number of tokens) of the answer or question."""
    if part == "question":
        return prompt.question_start, len(prompt.question_offsets)
    if prompt.answer_offsets is None:
        raise InputError(
            f"the prompt for {prompt.question!r} has no answer to trace;"
            " give build_prompt one, or use trace_generation"
        )
    return prompt.answer_start, len(prompt.answer_offsets)


def _row_positions(batch: PromptBatch, spans: Sequence[tuple[int, int]]) -> Tensor:
    """Return the (B, R) positions of the spans' tokens; short spans repeat their last position."""
    rows = torch.arange(max(max(count for _, count in spans), 1))
    return torch.stack(
        [
            (padding + start + rows).clamp(max=padding + start + count - 1)
            for (start, count), padding in zip(spans, batch.left_padding, strict=True)
        ]
    )
