"""The cost of recording, compared with plain chat and with eager attention.

Letters: ``M`` layers, ``N`` heads, ``T`` tokens of the answer, ``C`` image tokens, ``L`` tokens of
the whole sequence.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor

from flmm.attention.eager import eager_attention
from flmm.attention.tracing import trace_generation
from flmm.bench.memory import can_measure_peak, read_peak, reset_peak, run_in_new_process
from flmm.bench.models import ImageTokens, LLMSize, build_picture, build_random_lmm
from flmm.lmm.base import LMMAdapter
from flmm.lmm.prompt import Prompt

Mode = Literal["plain", "recorded", "eager"]
"""Chat without recording; with flmm's recorder; with transformers' ``output_attentions``."""

_MAX_EAGER_BYTES = 4 * 2**30


@dataclass(frozen=True)
class ChatSetting:
    """A random LMM, and how many tokens it generates on which device."""

    image_tokens: ImageTokens
    llm_size: LLMSize
    new_tokens: int
    device: str
    dtype: torch.dtype

    def load_model(self) -> tuple[LMMAdapter, Prompt]:
        """Return the LMM's adapter on the device, and the prompt."""
        adapter = build_random_lmm(self.image_tokens, self.llm_size, self.dtype)
        adapter.model.to(torch.device(self.device))  # type: ignore[arg-type]
        return adapter, adapter.build_prompt(build_picture(), "What is in the picture?")

    @property
    def map_bytes(self) -> int:
        """Bytes of the recorded maps: T·M·N·C values of 2 bytes."""
        return self.new_tokens * self.llm_size.layers * self.llm_size.heads * self.image_tokens * 2

    def eager_bytes(self, length: int) -> int:
        """Return the bytes of the prompt's eager attention: M·N·L² values, L = ``length``."""
        per_value = torch.finfo(self.dtype).bits // 8
        return self.llm_size.layers * self.llm_size.heads * length**2 * per_value


@dataclass(frozen=True)
class ChatCost:
    """The cost of one mode; ratio and difference are to plain chat in the same run."""

    mode: Mode
    seconds: float
    """Median."""
    time_ratio: float
    """Median over repeats of the ratio to the same repeat's plain chat."""
    extra_bytes: int | None
    """Median peak memory minus plain chat's; None where the system cannot measure it."""


def run_chat(adapter: LMMAdapter, prompt: Prompt, mode: Mode, new_tokens: int) -> None:
    """Generate one answer of ``new_tokens`` tokens."""
    if mode == "plain":
        adapter.generate(prompt, new_tokens)
    elif mode == "recorded":
        trace_generation(adapter, prompt, new_tokens)
    else:
        with eager_attention(adapter.text_model):
            cast(Callable[..., Tensor], adapter.model.generate)(
                **adapter.collate([prompt]).model_inputs,
                do_sample=False,
                max_new_tokens=new_tokens,
                output_attentions=True,
                return_dict_in_generate=True,
            )


def measure_peak(setting: ChatSetting, mode: Mode) -> int:
    """Return the peak bytes of one chat, including the model; to be run in a new process."""
    adapter, prompt = setting.load_model()
    run_chat(adapter, prompt, "plain", 2)
    reset_peak(setting.device)
    run_chat(adapter, prompt, mode, setting.new_tokens)
    return read_peak(setting.device)


def measure(
    setting: ChatSetting, repeats: int, on_message: Callable[[str], None]
) -> list[ChatCost]:
    """Time every mode in turn, ``repeats`` times, then measure peak memory as often.

    Peak memory is measured in a new process each time; the median is taken, as it varies by tens of
    MB. Eager attention is left out where its matrices exceed 4 GiB. ``on_message`` is called with
    the next step.
    """
    on_message(f"making a random LMM with {setting.image_tokens} image tokens")
    adapter, prompt = setting.load_model()
    modes: list[Mode] = ["plain", "recorded"]
    if setting.eager_bytes(prompt.length) < _MAX_EAGER_BYTES:
        modes.append("eager")
    for mode in modes:
        run_chat(adapter, prompt, mode, 2)
    seconds: dict[Mode, list[float]] = {mode: [] for mode in modes}
    for repeat in range(repeats):
        for mode in modes:
            on_message(f"{setting.image_tokens} image tokens, {mode}, {repeat + 1} of {repeats}")
            seconds[mode].append(_time_chat(adapter, prompt, mode, setting))
    del adapter
    peaks: dict[Mode, list[int]] = {mode: [] for mode in modes}
    for repeat in range(repeats if can_measure_peak(setting.device) else 0):
        for mode in modes:
            on_message(
                f"{setting.image_tokens} image tokens, {mode}, memory, {repeat + 1} of {repeats}"
            )
            peaks[mode].append(run_in_new_process(measure_peak, setting, mode))
    costs = []
    for mode in modes:
        ratios = [chat / plain for chat, plain in zip(seconds[mode], seconds["plain"], strict=True)]
        extra = (
            round(statistics.median(peaks[mode]) - statistics.median(peaks["plain"]))
            if peaks[mode]
            else None
        )
        costs.append(
            ChatCost(mode, statistics.median(seconds[mode]), statistics.median(ratios), extra)
        )
    return costs


def _time_chat(adapter: LMMAdapter, prompt: Prompt, mode: Mode, setting: ChatSetting) -> float:
    begin = time.perf_counter()
    run_chat(adapter, prompt, mode, setting.new_tokens)
    if setting.device != "cpu":
        torch.cuda.synchronize(setting.device)
    return time.perf_counter() - begin
