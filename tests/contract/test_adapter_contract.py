"""What every LMM family must do; a new file in ``flmm/lmm`` is found and tested by itself."""

import math
from collections.abc import Iterator

import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor
from transformers.configuration_utils import PreTrainedConfig

from flmm.attention.recorder import Step, trace_generation, trace_text, trace_texts
from flmm.attention.recording import Recording, record
from flmm.errors import InputError
from flmm.lmm import Family, adapter_class, families
from flmm.lmm.base import LMMAdapter, Prompt
from flmm.types import ImageGeometry

PICTURE_SIZES = [(1, 1), (7, 640), (32, 32), (50, 40), (33, 97), (4000, 20), (20, 4000)]
"""(width, height)."""
ANSWERS = ["the cat and the dog", "café 🐈‍⬛ on the grass, twice: the cat", "x"]


@pytest.fixture(params=[(f, g) for f in families() for g in (False, True)], scope="module")
def adapter(request: pytest.FixtureRequest) -> LMMAdapter:
    family: Family
    family, grouped_queries = request.param
    return adapter_class(family).tiny(grouped_queries)


@pytest.fixture
def eager(adapter: LMMAdapter) -> Iterator[LMMAdapter]:
    adapter.model.set_attn_implementation("eager")
    yield adapter
    adapter.model.set_attn_implementation("sdpa")


def picture(width: int = 50, height: int = 40) -> Image.Image:
    generator = torch.Generator().manual_seed(width * 4001 + height)
    pixels = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def slow_reference(
    adapter: LMMAdapter, prompt: Prompt, start: int, count: int
) -> tuple[Tensor, Tensor]:
    """(M, N, T, h·w) and (M, T, D) from transformers' own eager outputs; no code of ours."""
    output = adapter.model(**prompt.inputs, output_attentions=True, output_hidden_states=True)
    rows = torch.stack(output.attentions)[:, 0, :, start : start + count]
    states = torch.stack(output.hidden_states[1:])[:, 0, start : start + count]
    return rows[..., prompt.image_columns], states


def implementations(model: torch.nn.Module) -> list[str]:
    configs = [getattr(module, "config", None) for module in model.modules()]
    return [str(c._attn_implementation) for c in configs if isinstance(c, PreTrainedConfig)]


def hooks(adapter: LMMAdapter) -> int:
    return sum(len(module._forward_hooks) for module in adapter.model.modules())


def test_everything_is_frozen(adapter: LMMAdapter) -> None:
    assert not adapter.model.training
    assert not any(parameter.requires_grad for parameter in adapter.model.parameters())


def test_tiny_is_the_same_each_time(adapter: LMMAdapter) -> None:
    again = type(adapter).tiny(adapter.text_model.config.num_key_value_heads < adapter.heads)
    for one, other in zip(adapter.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_prompt_marks_the_answer_and_the_question(adapter: LMMAdapter) -> None:
    prompt = adapter.prepare(picture(), "where is it?", ANSWERS[1])
    token_ids = prompt.inputs["input_ids"][0]
    assert prompt.answer_offsets is not None
    assert adapter.decode(token_ids[prompt.answer_start :]) == ANSWERS[1]
    assert prompt.answer_start + len(prompt.answer_offsets) == prompt.length
    asked = slice(prompt.question_start, prompt.question_start + len(prompt.question_offsets))
    assert adapter.decode(token_ids[asked]) == "where is it?"


def test_a_given_answer_continues_the_prompt(adapter: LMMAdapter) -> None:
    asked = adapter.prepare(picture(), "where is it?")
    told = adapter.prepare(picture(), "where is it?", "there")
    assert asked.answer_start == asked.length == told.answer_start
    assert told.inputs["input_ids"][0, : asked.length].equal(asked.inputs["input_ids"][0])


@pytest.mark.parametrize("words", [("a {} b", None), ("what?", "a {} b")])
def test_placeholder_in_the_text_is_refused(
    adapter: LMMAdapter, words: tuple[str, str | None]
) -> None:
    token = adapter.prepare(picture(), "what?")
    column = token.inputs["input_ids"][0, token.image_columns[0]]
    placeholder = adapter.tokenizer.convert_ids_to_tokens(int(column))
    question, answer = (None if text is None else text.format(placeholder) for text in words)
    assert question is not None
    with pytest.raises(InputError, match="stands for the picture"):
        adapter.prepare(picture(), question, answer)


def test_teacher_forced_rows_are_those_of_eager_attention(eager: LMMAdapter) -> None:
    prompts = [
        eager.prepare(picture(20 + 9 * index), "what?" * (index + 1), answer)
        for index, answer in enumerate(ANSWERS)
    ]
    assert len({prompt.length for prompt in prompts}) == len(prompts), "nothing would be padded"
    eager.model.set_attn_implementation("sdpa")
    traces = trace_texts(eager, prompts)
    eager.model.set_attn_implementation("eager")
    for prompt, trace in zip(prompts, traces, strict=True):
        assert prompt.answer_offsets is not None
        rows, states = slow_reference(
            eager, prompt, prompt.answer_start, len(prompt.answer_offsets)
        )
        assert (trace.attention.flatten(-2) - rows).abs().max() <= 1e-5
        assert rows.max() > 0.05, "near-uniform rows would hide a mistake"
        torch.testing.assert_close(trace.hidden_states, states, rtol=1e-4, atol=1e-4)
        assert trace.token_ids.equal(prompt.inputs["input_ids"][0, prompt.answer_start :])


def test_question_rows_are_those_of_eager_attention(eager: LMMAdapter) -> None:
    prompt = eager.prepare(picture(), "what is on the grass?")
    trace = trace_texts(eager, [prompt], of="question")[0]
    rows, _ = slow_reference(eager, prompt, prompt.question_start, len(prompt.question_offsets))
    assert (trace.attention.flatten(-2) - rows).abs().max() <= 1e-5


def test_generated_rows_are_those_of_eager_attention(eager: LMMAdapter) -> None:
    prompt = eager.prepare(picture(), "what is it?")
    eager.model.set_attn_implementation("sdpa")
    trace, _ = trace_generation(eager, prompt, 9)
    eager.model.set_attn_implementation("eager")
    assert len(trace.token_ids) == 9, "the last token, which was never fed back, must have its row"
    whole = torch.cat([prompt.inputs["input_ids"][0], trace.token_ids])[None]
    told = Prompt(
        inputs={**prompt.inputs, "input_ids": whole, "attention_mask": torch.ones_like(whole)},
        image_columns=prompt.image_columns,
        geometry=prompt.geometry,
        question=prompt.question,
        question_start=prompt.question_start,
        question_offsets=prompt.question_offsets,
        answer_start=prompt.length,
    )
    rows, states = slow_reference(eager, told, prompt.length, 9)
    assert (trace.attention.flatten(-2) - rows).abs().max() <= 1e-5
    torch.testing.assert_close(trace.hidden_states, states, rtol=1e-4, atol=1e-4)


def test_recording_changes_no_bit_of_a_generation(adapter: LMMAdapter) -> None:
    prompt = adapter.prepare(picture(), "what is it?")
    inputs = adapter.collate([prompt]).inputs

    def run() -> tuple[Tensor, Tensor]:
        output = adapter.model.generate(  # type: ignore[operator]
            **inputs,
            max_new_tokens=8,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        return output.sequences, torch.stack(output.logits)

    alone_ids, alone_logits = run()
    with record(Recording(adapter, prompt.image_columns[None]), adapter) as recording:
        ids, logits = run()
    assert recording.steps == 7
    assert torch.equal(alone_ids, ids)
    assert torch.equal(alone_logits, logits)


def test_recording_changes_no_bit_of_a_padded_forward(adapter: LMMAdapter) -> None:
    batch = adapter.prepare_many([(picture(), "what?", answer) for answer in ANSWERS])
    assert any(batch.padding)
    positions = torch.tensor([[batch.inputs["input_ids"].shape[1] - 1]] * len(ANSWERS))
    alone = adapter.model(**batch.inputs).logits
    with record(Recording(adapter, batch.image_columns, positions), adapter):
        recorded = adapter.model(**batch.inputs).logits
    assert torch.equal(alone, recorded)


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("watched", [False, True])
def test_answer_is_what_the_model_alone_says(
    adapter: LMMAdapter, temperature: float, watched: bool
) -> None:
    prompt = adapter.prepare(picture(), "what is it?")
    steps: list[Step] = []
    torch.manual_seed(3)
    alone = adapter.generate(prompt, 6, temperature)
    torch.manual_seed(3)
    trace, text = trace_generation(
        adapter, prompt, 6, steps.append if watched else None, temperature
    )
    assert text == alone.text
    assert trace.token_ids.equal(alone.token_ids)
    if watched:
        assert [step.token_id for step in steps] == alone.token_ids.tolist()
        assert steps[-1].text == text


@pytest.mark.parametrize(("tokens", "temperature"), [(0, 0.0), (3, -0.1)])
def test_impossible_generation_is_refused(
    adapter: LMMAdapter, tokens: int, temperature: float
) -> None:
    with pytest.raises(InputError, match=r"max_new_tokens is 0|temperature is -0\.1"):
        adapter.generate(adapter.prepare(picture(), "what?"), tokens, temperature)


def test_answer_that_ends_by_itself(adapter: LMMAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = adapter.prepare(picture(), "what is it?")
    free = adapter.generate(prompt, 6).token_ids
    ending = int(free[4])
    stop = free.tolist().index(ending)
    monkeypatch.setattr(adapter.model.generation_config, "eos_token_id", ending)
    steps: list[Step] = []
    for limit in (stop, stop + 1, 6):
        steps.clear()
        trace, text = trace_generation(adapter, prompt, limit, steps.append)
        assert trace.token_ids.equal(free[:stop])
        assert trace.attention.shape[2] == len(steps) == stop
        assert text == adapter.generate(prompt, limit).text


def test_answer_of_nothing(adapter: LMMAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = adapter.prepare(picture(), "what is it?")
    first = int(adapter.generate(prompt, 1).token_ids[0])
    monkeypatch.setattr(adapter.model.generation_config, "eos_token_id", first)
    trace, text = trace_generation(adapter, prompt, 4)
    assert text == ""
    assert trace.attention.shape == (adapter.layers, adapter.heads, 0, *prompt.geometry.grid)
    assert trace.hidden_states.shape == (adapter.layers, 0, adapter.hidden_size)


def test_trace_so_far_is_the_beginning_of_the_whole(adapter: LMMAdapter) -> None:
    prompt = adapter.prepare(picture(), "what is it?")
    steps: list[Step] = []
    trace, _ = trace_generation(adapter, prompt, 5, steps.append)
    for said, step in enumerate(steps):
        partial = step.trace()
        assert partial.token_ids.equal(trace.token_ids[:said])
        assert partial.attention.equal(trace.attention[:, :, :said])


def test_batch_of_one_picture_and_of_several_agree(adapter: LMMAdapter) -> None:
    prompts = [adapter.prepare(picture(), "what?", answer) for answer in ANSWERS]
    for prompt, batched in zip(prompts, trace_texts(adapter, prompts), strict=True):
        alone = trace_text(adapter, prompt)
        torch.testing.assert_close(batched.attention, alone.attention, rtol=0, atol=1e-5)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_model_is_restored_whatever_happens(
    adapter: LMMAdapter, error: type[BaseException]
) -> None:
    before, hooked = implementations(adapter.model), hooks(adapter)
    prompt = adapter.prepare(picture(), "what is it?")
    during: list[list[str]] = []

    def interrupt(_step: Step) -> None:
        during.append(implementations(adapter.model))
        raise error

    with pytest.raises(error):
        trace_generation(adapter, prompt, 6, interrupt)
    assert during[0] != before, "nothing was being recorded"
    assert implementations(adapter.model) == before
    assert hooks(adapter) == hooked
    assert adapter.lock.acquire(blocking=False)
    adapter.lock.release()


def test_only_the_language_model_is_switched(adapter: LMMAdapter) -> None:
    prompt = adapter.prepare(picture(), "what is it?")
    with record(Recording(adapter, prompt.image_columns[None]), adapter):
        assert "sdpa" not in implementations(adapter.text_model)
        of_the_text = len(implementations(adapter.text_model))
        everywhere = implementations(adapter.model)
        assert everywhere.count("sdpa") == len(everywhere) - of_the_text > 0


@pytest.mark.parametrize(("width", "height"), PICTURE_SIZES)
def test_geometry_fits_the_model(adapter: LMMAdapter, width: int, height: int) -> None:
    prompt = adapter.prepare(picture(width, height), "what?")
    geometry = prompt.geometry
    assert geometry.picture == (height, width)
    assert len(prompt.image_columns) == geometry.grid[0] * geometry.grid[1]
    assert prompt.image_columns.diff().min() > 0
    visible = [
        min(start + length, canvas) > max(start, 0)
        for start, length, canvas in zip(
            geometry.offset, geometry.resized, geometry.canvas, strict=True
        )
    ]
    assert all(visible)


@pytest.mark.parametrize(("width", "height"), PICTURE_SIZES[2:])
def test_a_spot_in_the_picture_lights_its_own_image_token(
    adapter: LMMAdapter, width: int, height: int
) -> None:
    plain = picture(width, height)
    base = adapter.prepare(plain, "what?")
    geometry = base.geometry
    seen = image_embeddings(adapter, base)
    tested = 0
    for row in range(0, geometry.grid[0], 3):
        for column in range(0, geometry.grid[1], 3):
            tall, wide = (
                pixels_of_cell(geometry, axis, at) for axis, at in ((0, row), (1, column))
            )
            if tall is None or wide is None:
                continue
            spotted = plain.copy()
            box = (wide[0], tall[0], wide[1], tall[1])
            spotted.paste(ImageOps.invert(plain.crop(box)), box)
            change = image_embeddings(adapter, adapter.prepare(spotted, "what?")) - seen
            brightest = int(change.norm(dim=-1).argmax())
            assert divmod(brightest, geometry.grid[1]) == (row, column)
            tested += 1
    assert tested > 0


def pixels_of_cell(geometry: ImageGeometry, axis: int, index: int) -> tuple[int, int] | None:
    """The picture's (first, last + 1) pixels that lie wholly under a cell; None without any."""
    cell = geometry.canvas[axis] / geometry.grid[axis]
    scale = geometry.resized[axis] / geometry.picture[axis]
    first = math.ceil((index * cell - geometry.offset[axis]) / scale - 1e-6)
    last = math.floor(((index + 1) * cell - geometry.offset[axis]) / scale + 1e-6)
    return (first, last) if 0 <= first < last <= geometry.picture[axis] else None


def image_embeddings(adapter: LMMAdapter, prompt: Prompt) -> Tensor:
    """(h·w, D): what the LLM is given in the image columns."""
    output = adapter.model(**prompt.inputs, output_hidden_states=True)
    embeddings: Tensor = output.hidden_states[0][0, prompt.image_columns]
    return embeddings
