"""Attention rows, and starting and stopping the recorder."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from flmm.attention.attention_rows import (
    apply_sliding_window,
    compute_attention_rows,
    compute_visible_keys,
    dequantize_rows,
    gather_rows,
    quantize_rows,
)
from flmm.attention.recorder import AttentionRecorder, record
from flmm.attention.tracing import trace_generation, trace_text, trace_texts
from flmm.errors import InputError
from flmm.lmm.families.llava import LlavaAdapter

B, N, N_KV, Q, D = 2, 6, 2, 9, 5
PICTURE = Image.new("RGB", (40, 32), (200, 30, 60))


@pytest.fixture(scope="module")
def adapter() -> LlavaAdapter:
    return LlavaAdapter.build_tiny(grouped_queries=True)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slow_rows(
    query: Tensor, key: Tensor, additive: Tensor, positions: Tensor, columns: Tensor
) -> Tensor:
    """Compute the rows from the whole matrix, with repeated keys, head by head."""
    rows = []
    for item in range(B):
        heads = []
        for head in range(N):
            scores = query[item, head] @ key[item, head // (N // N_KV)].T * 0.3
            weights = (scores + additive[item]).softmax(-1)
            heads.append(weights[positions[item]][:, columns[item]])
        rows.append(torch.stack(heads))
    return torch.stack(rows)


@pytest.mark.parametrize("form", ["bool", "float", "none", "padding"])
def test_rows_are_those_of_the_whole_matrix(form: str) -> None:
    query, key = random(B, N, Q, D, seed=1), random(B, N_KV, Q, D, seed=2)
    positions = torch.tensor([[8, 4, 7], [6, 8, 8]])
    columns = torch.tensor([[2, 3], [3, 4]])
    unpadded = torch.ones(B, Q, dtype=torch.bool)
    if form != "none":
        unpadded[0, 0] = False
        unpadded[1, :3] = False
    causal = torch.ones(Q, Q).tril().bool() & unpadded[:, None, :]
    additive = torch.zeros(B, Q, Q).masked_fill(~causal, -torch.inf)
    masks = {"bool": causal[:, None], "float": additive[:, None], "none": None, "padding": unpadded}
    visible = compute_visible_keys(masks[form], positions, Q, key)
    rows = compute_attention_rows(gather_rows(query, positions, 2), key, visible, 0.3, columns)
    expected = slow_rows(query, key, additive, positions, columns)
    torch.testing.assert_close(rows, expected, rtol=0, atol=1e-6)


def test_rows_of_half_types_are_not_rounded() -> None:
    query, key = random(1, 1, 1, 64).bfloat16(), random(1, 1, 300, 64).bfloat16()
    columns = torch.arange(300)[None]
    rows = compute_attention_rows(query, key, None, 1.0, columns)
    exact = (query.double() @ key.double().transpose(-1, -2)).softmax(-1)
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows.double(), exact, rtol=1e-4, atol=1e-7)


def test_rows_of_heads_with_an_attention_sink() -> None:
    query, key, sinks = random(1, 2, 3, 8), random(1, 2, 5, 8), random(2)
    visible = torch.ones(3, 5).tril(diagonal=2).bool()[None, None]
    columns = torch.tensor([[0, 4]])
    rows = compute_attention_rows(query, key, visible, 0.5, columns, sinks=sinks)
    scores = (query @ key.transpose(-1, -2) * 0.5).masked_fill(~visible, -torch.inf).exp()
    shares = scores / (scores.sum(dim=-1, keepdim=True) + sinks.exp()[None, :, None, None])
    torch.testing.assert_close(rows, shares[..., [0, 4]])


class LargestSquare(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The shorter side of the largest matrix that any operation returns."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.side = 0

    def __torch_dispatch__(  # type: ignore[no-untyped-def]
        self, func, types, args=(), kwargs=None
    ):
        output = func(*args, **(kwargs or {}))
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[-2] > 1:
            self.side = max(self.side, min(output.shape[-2:]))
        return output


def test_whole_attention_matrix_is_never_computed(adapter: LlavaAdapter) -> None:
    prompt = adapter.build_prompt(PICTURE, "what is it? " * 20, "a cat")
    with LargestSquare() as largest:
        trace_text(adapter, prompt)
    assert 0 < largest.side < prompt.length / 4
    adapter.model.set_attn_implementation("eager")
    with LargestSquare() as largest:
        adapter.model(**prompt.inputs)
    adapter.model.set_attn_implementation("sdpa")
    assert largest.side == prompt.length, "the probe does not see the matrix"


def test_eager_model_has_the_same_trace_as_sdpa(adapter: LlavaAdapter) -> None:
    prompt = adapter.build_prompt(PICTURE, "what?", "a cat on the grass")
    with_sdpa = trace_text(adapter, prompt)
    adapter.model.set_attn_implementation("eager")
    with_eager = trace_text(adapter, prompt)
    assert adapter.text_model.config._attn_implementation == "eager"
    adapter.model.set_attn_implementation("sdpa")
    torch.testing.assert_close(with_eager.attention, with_sdpa.attention, rtol=0, atol=1e-5)


def test_half_precision_model() -> None:
    half = LlavaAdapter.build_tiny()
    half.model.to(torch.bfloat16)  # type: ignore[arg-type]
    trace = trace_text(half, half.build_prompt(PICTURE, "what?", "a cat"))
    assert trace.attention.dtype == torch.float32
    assert trace.hidden_states.dtype == torch.bfloat16
    assert 0 <= trace.attention.min() <= trace.attention.max() <= 1
    generated, _ = trace_generation(half, half.build_prompt(PICTURE, "what?"), 3)
    assert generated.attention.shape[2] == 3


def test_generation_in_another_thread_is_not_recorded(adapter: LlavaAdapter) -> None:
    prompt = adapter.build_prompt(PICTURE, "what?")
    texts: list[str] = []
    expected = adapter.generate(prompt, 4).text
    recorder = AttentionRecorder(adapter, prompt.image_token_positions[None])
    with record(recorder, adapter):
        other = threading.Thread(target=lambda: texts.append(adapter.generate(prompt, 4).text))
        other.start()
        other.join()
    assert texts == [expected]
    assert recorder.num_recorded == 0


def test_recordings_of_several_threads_run_one_after_another(adapter: LlavaAdapter) -> None:
    prompt = adapter.build_prompt(PICTURE, "what?")
    expected = trace_generation(adapter, prompt, 5)[0].attention
    attentions: list[Tensor] = []
    threads = [
        threading.Thread(
            target=lambda: attentions.append(trace_generation(adapter, prompt, 5)[0].attention)
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(attentions) == 3
    assert all(attention.equal(expected) for attention in attentions)


def test_unsupported_attention_option_is_refused(
    adapter: LlavaAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = adapter.decoder_layers[0].self_attn
    assert isinstance(first, torch.nn.Module)
    forward = first.forward
    monkeypatch.setattr(
        first, "forward", lambda *inputs, **options: forward(*inputs, **options, position_bias=2)
    )
    with pytest.raises(InputError, match="position_bias"):
        trace_text(adapter, adapter.build_prompt(PICTURE, "what?", "a cat"))
    assert adapter.text_model.config._attn_implementation == "sdpa"


def test_attention_outside_the_interface_is_refused(
    adapter: LlavaAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        adapter.decoder_layers[1].self_attn,
        "forward",
        lambda hidden_states, **_: (hidden_states, None),
    )
    with pytest.raises(InputError, match="layer 1"):
        trace_text(adapter, adapter.build_prompt(PICTURE, "what?", "a cat"))


def test_prompt_without_answer_is_refused(adapter: LlavaAdapter) -> None:
    with pytest.raises(InputError, match="no answer"):
        trace_text(adapter, adapter.build_prompt(PICTURE, "what?"))


def test_no_prompts_give_no_traces(adapter: LlavaAdapter) -> None:
    assert trace_texts(adapter, []) == []


def test_empty_answer_in_a_batch_with_a_longer_one(adapter: LlavaAdapter) -> None:
    prompts = [adapter.build_prompt(PICTURE, "what?", answer) for answer in ("", "a cat")]
    empty, longer = trace_texts(adapter, prompts)
    assert empty.attention.shape[2] == empty.hidden_states.shape[1] == 0
    torch.testing.assert_close(
        longer.attention, trace_text(adapter, prompts[1]).attention, rtol=0, atol=1e-5
    )


def test_trace_can_be_an_input_of_training(adapter: LlavaAdapter) -> None:
    trace = trace_text(adapter, adapter.build_prompt(PICTURE, "what?", "a cat"))
    weight = torch.ones(adapter.layers, requires_grad=True)
    loss = (trace.hidden_states * weight[:, None, None]).sum()
    (gradient,) = torch.autograd.grad(loss, weight)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("tokens", [[], [99], [-1]])
def test_phrase_outside_the_answer_is_refused(adapter: LlavaAdapter, tokens: list[int]) -> None:
    trace = trace_text(adapter, adapter.build_prompt(PICTURE, "what?", "a cat"))
    with pytest.raises(InputError, match=r"no token|not all in 0\.\."):
        trace.picture_attention.phrase_maps(tokens)


def test_phrase_maps_are_the_mean_of_its_tokens(adapter: LlavaAdapter) -> None:
    trace, _ = trace_generation(adapter, adapter.build_prompt(PICTURE, "what?"), 40)
    tokens = [1, 15, 16, 39]
    expected = trace.attention[:, :, tokens].mean(2).flatten(0, 1)
    assert trace.picture_attention.phrase_maps(tokens).equal(expected)


@settings(deadline=None)
@given(
    arrays(np.float32, (3, 7), elements=st.floats(0, 1, width=32)),
    st.sampled_from([1.0, 1e-3, 1e-12]),
)
def test_quantization_error_of_rows(rows: NDArray[np.float32], scale: float) -> None:
    exact = torch.from_numpy(rows) * scale
    quantized, row_max = quantize_rows(exact)
    assert quantized.element_size() == 2
    error = (dequantize_rows(quantized, row_max) - exact).abs().amax(-1)
    assert bool((error <= 8e-6 * exact.amax(-1) + 1e-30).all())


def test_class_token_before_the_patches(adapter: LlavaAdapter) -> None:
    config = adapter.model.config
    full = LlavaAdapter.build_tiny(grouped_queries=True)
    full.model.config.vision_feature_select_strategy = "full"
    full = LlavaAdapter(
        full.model,  # type: ignore[arg-type]
        full.tokenizer,
        full.image_processor,
        "full",
    )
    assert config.vision_feature_select_strategy == "default"
    with_class = full.build_prompt(PICTURE, "what?", "a cat")
    without = adapter.build_prompt(PICTURE, "what?", "a cat")
    assert with_class.length == without.length + 1
    assert with_class.image_token_positions.equal(without.image_token_positions + 1)
    features = [
        lmm.model(**prompt.inputs, output_hidden_states=True).hidden_states[0][
            0, prompt.image_token_positions
        ]
        for lmm, prompt in ((full, with_class), (adapter, without))
    ]
    torch.testing.assert_close(features[0], features[1])
    assert trace_text(full, with_class).attention.shape[-2:] == (8, 8)


def test_sliding_window_hides_keys_before_it() -> None:
    key = torch.zeros(2, 1, 5, 4)
    positions = torch.tensor([[2, 4], [1, 3]])
    inside = apply_sliding_window(None, positions, 2, 0, key)
    assert inside.shape == (2, 1, 2, 5)
    assert inside[0, 0, 1].tolist() == [False, False, False, True, True]
    causal = torch.arange(5) <= positions[:, None, :, None]
    both = apply_sliding_window(causal, positions, 2, 0, key)
    assert both[1, 0, 0].tolist() == [True, True, False, False, False]
    # The last of ten tokens, when a sliding cache holds the last five of them.
    assert apply_sliding_window(None, 9, 3, 5, key)[0, 0, 0].tolist() == [
        False,
        False,
        True,
        True,
        True,
    ]
