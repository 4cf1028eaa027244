"""The comparisons of ``real_logits`` for an LMM on disk, and their tables.

    PYTHONPATH=benchmarks python -m language_model.real_logits_results FOLDER --lmm LMM

goes on where it was stopped.
"""

import argparse
import json
from dataclasses import dataclass
from functools import partial, reduce
from operator import add
from pathlib import Path

import torch
from PIL import Image

from flmm.bench.memory import read_peak, reset_peak, run_in_new_process
from flmm.cli.console import show_progress
from flmm.embedded_model.evaluate_text import ask_about_scene
from flmm.head.weights import fingerprint_weights
from flmm.lmm.auto import load_lmm
from flmm.lmm.base import LMMAdapter
from flmm.lmm.placement import Placement
from flmm.lmm.prompt import Prompt
from flmm.progress import ProgressCallback
from flmm.report.context import key_digest
from flmm.report.markdown import markdown_table
from flmm.report.saved_results import load_or_measure, save_results
from flmm.stickers.dataset import EVALUATION_SEED
from flmm.stickers.draw import draw
from flmm.stickers.language import Turn
from flmm.stickers.scene import generate_scene
from language_model.real_logits import (
    TOGETHER,
    EagerDifference,
    GenerationDifference,
    SpanDifference,
    Way,
    compare_spans,
    compare_with_eager_attention,
    compare_with_generate,
    generate_in,
)
from language_model.text_prompts import read_text_prompts

NEW_TOKENS = 128
ANSWERS = 200
"""Half of them to prompts without a picture."""
EAGER_SCENES = 10
"""Whose true captions and answers eager attention reads."""


@dataclass(frozen=True)
class RealLogits:
    """All comparisons."""

    float32: EagerDifference
    bfloat16: EagerDifference
    spans: SpanDifference
    generation: GenerationDifference
    peaks: "Peaks"


@dataclass(frozen=True)
class Peaks:
    """The memory that ``TOGETHER`` answers take, each way in a process of its own."""

    bytes: tuple[int, ...]
    """Over what the process has before, for each ``Way``."""


def measure_real_logits(
    folder: Path,
    lmm: Path,
    on_progress: ProgressCallback,
    answers: int = ANSWERS,
    new_tokens: int = NEW_TOKENS,
    eager_scenes: int = EAGER_SCENES,
) -> RealLogits:
    """Compare; what is in the folder's files already is not compared again.

    Args:
        folder: of files for each part, and ``real-logits.json`` with all.
        lmm: the LMM's folder.
        on_progress: called with (done, total, what).
        answers: as many as are generated, half of them without a picture.
        new_tokens: of each.
        eager_scenes: scenes whose texts eager attention reads.

    Raises:
        InputError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    adapter = load_lmm(str(lmm))
    key = {"weights": fingerprint_weights(adapter.model)}

    def compare(adapter: LMMAdapter) -> EagerDifference:
        prompts = [
            adapter.build_prompt(picture, turn.question, turn.answer)
            for picture, turn in _ask(eager_scenes)
        ]
        return compare_with_eager_attention(adapter, prompts, on_progress)

    eager_key = key | {"scenes": str(eager_scenes)}
    float32 = load_or_measure(
        folder / "eager-float32.json", EagerDifference, eager_key, lambda: compare(adapter)
    )
    bfloat16 = load_or_measure(
        folder / "eager-bfloat16.json", EagerDifference, eager_key,
        lambda: compare(load_lmm(str(lmm), Placement(dtype=torch.bfloat16))),
    )  # fmt: skip
    texts = [prompt.prompt for prompt in read_text_prompts()]
    captions = [turn.answer for _, turn in _ask(eager_scenes)]
    spans = compare_spans(adapter, [*texts, *captions])
    prompts = _build_prompts(adapter, answers)
    generation_key = key | {
        "prompts": key_digest({"texts": json.dumps([answers, new_tokens, *texts])}),
        "computed by": f"{adapter.device}, {torch.get_num_threads()} threads",
    }
    parts = []
    for first in range(0, answers, TOGETHER):
        chunk = prompts[first : first + TOGETHER]
        parts.append(
            load_or_measure(
                folder / f"generation-{first}.json", GenerationDifference, generation_key,
                partial(compare_with_generate, adapter, chunk, new_tokens),
            )
        )  # fmt: skip
        on_progress(first + len(chunk), answers, "answers of generate and of the engine")
    peaks = load_or_measure(
        folder / "peaks.json", Peaks, generation_key,
        lambda: Peaks(
            tuple(run_in_new_process(_measure_peak, way, lmm, answers, new_tokens) for way in Way)
        ),
    )  # fmt: skip
    results = RealLogits(float32, bfloat16, spans, reduce(_add, parts), peaks)
    save_results(folder / "real-logits.json", results, key)
    return results


def _ask(scenes: int) -> list[tuple[Image.Image, Turn]]:
    """Return pictures of held-out scenes with the turns that need no earlier one."""
    asked = []
    for seed in range(EVALUATION_SEED, EVALUATION_SEED + scenes):
        drawing = draw(generate_scene(seed))
        picture = Image.fromarray(drawing.picture)
        asked += [
            (picture, each.turn)
            for each in ask_about_scene(drawing.scene, seed)
            if each.earlier is None
        ]
    return asked


def _build_prompts(adapter: LMMAdapter, count: int) -> list[Prompt]:
    """Build prompts about pictures, then as many without."""
    with_picture = count // 2
    texts = read_text_prompts()[: count - with_picture]
    pictures = [
        adapter.build_prompt(picture, turn.question)
        for picture, turn in _ask(with_picture)[:with_picture]
    ]
    return [*pictures, *(adapter.build_prompt((), text.prompt) for text in texts)]


def _measure_peak(way: Way, lmm: Path, answers: int, new_tokens: int) -> int:
    adapter = load_lmm(str(lmm))
    prompts = _build_prompts(adapter, answers)[:TOGETHER]
    generate_in(way, adapter, prompts[:1], 1)  # imports and keeps what each later one needs too
    device = str(adapter.device)
    reset_peak(device)
    before = read_peak(device)
    generate_in(way, adapter, prompts, new_tokens)
    return read_peak(device) - before


def _add(first: GenerationDifference, second: GenerationDifference) -> GenerationDifference:
    seconds = tuple(map(add, first.seconds, second.seconds))
    counts = ("answers", "tokens", "same_answers", "recorded_same_answers", "same_tokens")
    sums = {name: getattr(first, name) + getattr(second, name) for name in counts}
    return GenerationDifference(**sums, seconds=seconds)


def render_tables(results: RealLogits) -> str:
    """Return a table of the differences and one of what answers cost."""
    spans, generation = results.spans, results.generation
    differences = [
        ["recorded rows beside eager attention, float32", _cell(results.float32)],
        ["the same in bfloat16", _cell(results.bfloat16)],
        ["words whose tokens are the tokenizer's", f"{spans.same_words:,} of {spans.words:,}"],
        [
            f"engine's answers that are `generate`'s, {generation.tokens:,} tokens",
            f"{generation.same_answers} of {generation.answers}"
            f" ({generation.same_share:.3%} of tokens after the same past)",
        ],
        [
            "engine's answers that are the same with recording",
            f"{generation.recorded_same_answers} of {generation.answers}",
        ],
    ]
    costs = [
        [way, f"{1000 * seconds / generation.tokens:.1f}", f"{peak / 1e6:.0f}"]
        for way, seconds, peak in zip(Way, generation.seconds, results.peaks.bytes, strict=True)
    ]
    return "\n\n".join(
        [
            markdown_table(["", "figure"], differences),
            markdown_table(["", "milliseconds a token", "peak memory, MB"], costs),
        ]
    )


def _cell(difference: EagerDifference) -> str:
    return (
        f"at most {difference.greatest:.1e} ({difference.texts} texts; greatest weight"
        f" {difference.greatest_weight:.2f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="of the results")
    parser.add_argument("--lmm", type=Path, required=True, help="the LMM's folder")
    arguments = parser.parse_args()
    with show_progress() as on_progress:
        results = measure_real_logits(arguments.folder, arguments.lmm, on_progress)
    print(render_tables(results))


if __name__ == "__main__":
    main()
