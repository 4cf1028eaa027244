"""Traces of given and generated texts: attention and hidden states of each token.

Letters: ``B`` sequences, ``R`` recorded rows a sequence.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from flmm.attention.batched_tracing import trace_generation_batch
from flmm.attention.generation_step import GenerationStep
from flmm.attention.recorder import AttentionRecorder, record
from flmm.attention.shared_prefix import SharedPrefix, group_by_prefix
from flmm.attention.trace import Trace, split_by_picture
from flmm.errors import InputError
from flmm.lmm.base import LMMAdapter
from flmm.lmm.decoding.support import find_unsupported_reason
from flmm.lmm.detokenizer import Detokenizer
from flmm.lmm.padding import BatchSequences, batch_all, group_for_padding
from flmm.lmm.places import check_places
from flmm.lmm.prompt import Prompt
from flmm.lmm.sampling import GREEDY


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
    batch: BatchSequences = batch_all,
) -> list[Trace]:
    """Return the traces of given answers (or of the questions), each from one forward pass.

    The language-model head does not run. Prompts of ``LMMAdapter.build_prompts`` about one picture
    read it once, where the LLM can. Others are padded on the left; each length is a pass of its own
    for LLMs that padding would change.

    Args:
        adapter: the LMM.
        prompts: with answers, unless the questions are traced.
        part: whose tokens are recorded.
        batch: says which texts share a pass.

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
    spans = [_token_span(prompt, part) for prompt in prompts]
    traces: dict[int, Trace] = {}
    for length, members in group_by_prefix(adapter, prompts, [start for start, _ in spans]):
        texts = [_Text(prompts[index], *spans[index]) for index in members]
        if length:
            in_group = _trace_after_prefix(adapter, texts, length, batch)
        else:
            in_group = _trace_whole(adapter, texts, batch)
        traces.update(zip(members, in_group, strict=True))
    return [traces[index] for index in range(len(prompts))]


@dataclass(frozen=True)
class _Text:
    """A prompt, and which of its tokens are recorded."""

    prompt: Prompt
    start: int
    count: int


def _trace_whole(adapter: LMMAdapter, texts: Sequence[_Text], batch: BatchSequences) -> list[Trace]:
    """Trace texts as sequences padded on the left."""
    traces: dict[int, Trace] = {}
    for group in group_for_padding(adapter, [text.prompt for text in texts]):
        for in_batch in batch([texts[index].prompt.length for index in group], 0):
            indices = [group[number] for number in in_batch]
            in_pass = [texts[index] for index in indices]
            collated = adapter.collate([text.prompt for text in in_pass])
            inputs = {**collated.model_inputs, "use_cache": False}
            positions = collated.image_token_positions
            passed = _trace_pass(adapter, in_pass, inputs, positions, collated.left_padding)
            traces.update(zip(indices, passed, strict=True))
    return [traces[index] for index in range(len(texts))]


def _trace_after_prefix(
    adapter: LMMAdapter, texts: Sequence[_Text], length: int, batch: BatchSequences
) -> list[Trace]:
    """Trace texts that have their first ``length`` tokens in common."""
    columns = texts[0].prompt.image_token_positions
    traces: dict[int, Trace] = {}
    with adapter.recording_lock:
        prefix = SharedPrefix(adapter, texts[0].prompt, length)
        for indices in batch([text.prompt.length for text in texts], length):
            in_pass = [texts[index] for index in indices]
            inputs = prefix.model_inputs([text.prompt for text in in_pass])
            positions = columns.expand(len(in_pass), -1)
            shifts = [-length] * len(in_pass)
            passed = _trace_pass(adapter, in_pass, inputs, positions, shifts)
            traces.update(zip(indices, passed, strict=True))
    return [traces[index] for index in range(len(texts))]


def _trace_pass(
    adapter: LMMAdapter,
    texts: Sequence[_Text],
    model_inputs: Mapping[str, object],
    image_token_positions: Tensor,
    shifts: Sequence[int],
) -> list[Trace]:
    """Trace texts in one forward pass.

    Args:
        adapter: the LMM.
        texts: one for each sequence.
        model_inputs: of the forward pass.
        image_token_positions: (B, C), among the keys.
        shifts: what is added to a prompt's positions to find them in the forward pass.
    """
    rows = torch.arange(max(max(text.count for text in texts), 1))
    # Short spans repeat their last position.
    positions = torch.stack(
        [
            (rows.clamp(max=text.count - 1) + text.start + shift).clamp(min=0)
            for text, shift in zip(texts, shifts, strict=True)
        ]
    )
    columns = image_token_positions.to(adapter.device)
    recorder = AttentionRecorder(adapter, columns, positions.to(adapter.device))
    with record(recorder, adapter):
        adapter.model.base_model(**model_inputs)
    hidden_states, final_states = recorder.hidden_states(), recorder.final_states()
    traces = []
    for index, text in enumerate(texts):
        token_ids = text.prompt.inputs["input_ids"][0, text.start : text.start + text.count]
        pictures = split_by_picture(recorder.rows(index, text.count), text.prompt)
        states = hidden_states[:, index, : text.count]
        traces.append(Trace(token_ids, pictures, states, final_states[index, : text.count]))
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
    if temperature == 0 and find_unsupported_reason(adapter) is None:
        listener = _TraceListener(prompt, max_new_tokens, on_step)
        trace_generation_batch(adapter, [listener])
        return listener.trace, adapter.decode(listener.trace.token_ids)
    return _trace_with_generate(adapter, prompt, max_new_tokens, on_step, temperature)


class _TraceListener:
    """A ``GenerationListener`` that keeps the answer's trace."""

    sampling_params = GREEDY
    wants_trace = True

    def __init__(
        self, prompt: Prompt, max_new_tokens: int, on_step: Callable[[GenerationStep], None] | None
    ) -> None:
        self.prompt = prompt
        self.max_new_tokens = max_new_tokens
        self._on_step = on_step
        self.trace: Trace

    def on_step(self, step: GenerationStep) -> bool:
        if self._on_step is not None:
            self._on_step(step)
        return True

    def on_end(self, _: Tensor, trace: Trace | None) -> None:
        assert trace is not None
        self.trace = trace


def _trace_with_generate(
    adapter: LMMAdapter,
    prompt: Prompt,
    max_new_tokens: int,
    on_step: Callable[[GenerationStep], None] | None,
    temperature: float,
) -> tuple[Trace, str]:
    """Return what ``trace_generation`` does, from transformers' ``generate``."""
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
