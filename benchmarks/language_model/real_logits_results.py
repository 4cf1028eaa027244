"""The comparisons of ``real_logits`` for an LMM on disk, and their tables.

    PYTHONPATH=benchmarks python -m language_model.real_logits_results FOLDER --lmm LMM

goes on where it was stopped.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial, reduce
from pathlib import Path

import torch
from PIL import Image

from flmm.embedded_model.evaluate_text import ask_about_scene
from flmm.head.weights import fingerprint_weights
from flmm.lmm.auto import load_lmm
from flmm.lmm.base import LMMAdapter
from flmm.lmm.placement import Placement
from flmm.lmm.prompt import Prompt
from flmm.progress import ProgressCallback
from flmm.report.markdown import markdown_table
from flmm.report.saved_results import load_or_measure, save_results
from flmm.stickers.dataset import EVALUATION_SEED
from flmm.stickers.draw import draw
from flmm.stickers.language import Turn
from flmm.stickers.scene import generate_scene
from language_model.real_logits import (
    TOGETHER,
    Cost,
    EagerDifference,
    GenerationDifference,
    SpanDifference,
    compare_spans,
    compare_with_eager_attention,
    compare_with_generate,
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
    prompts = _build_prompts(adapter, answers, texts)
    parts = []
    for first in range(0, answers, TOGETHER):
        chunk = prompts[first : first + TOGETHER]
        parts.append(
            load_or_measure(
                folder / f"generation-{first}.json", GenerationDifference,
                key | {"answers": f"{first}, {len(chunk)}, {new_tokens}"},
                partial(compare_with_generate, adapter, chunk, new_tokens),
            )
        )  # fmt: skip
        on_progress(first + len(chunk), answers, "answers of generate and of the engine")
    results = RealLogits(float32, bfloat16, spans, reduce(_add, parts))
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


def _build_prompts(adapter: LMMAdapter, count: int, texts: Sequence[str]) -> list[Prompt]:
    with_picture = count // 2
    alone = [adapter.build_prompt((), text) for text in texts[: count - with_picture]]
    pictures = [
        adapter.build_prompt(picture, turn.question)
        for picture, turn in _ask(with_picture)[:with_picture]
    ]
    return [*pictures, *alone]


def _add(first: GenerationDifference, second: GenerationDifference) -> GenerationDifference:
    names = [field.name for field in fields(GenerationDifference)]
    return GenerationDifference(*(getattr(first, name) + getattr(second, name) for name in names))


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
        ["`generate`, one by one", *_cost_cells(generation.generate, generation.tokens)],
        [f"engine, {TOGETHER} at a time", *_cost_cells(generation.engine, generation.tokens)],
        ["engine, with recording", *_cost_cells(generation.recorded, generation.tokens)],
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


def _cost_cells(cost: Cost, tokens: int) -> list[str]:
    return [f"{1000 * cost.seconds / tokens:.1f}", f"{cost.peak / 1e6:.0f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="of the results")
    parser.add_argument("--lmm", type=Path, required=True, help="the LMM's folder")
    arguments = parser.parse_args()
    results = measure_real_logits(
        arguments.folder, arguments.lmm,
        lambda done, total, what: print(f"{done}/{total} {what}", file=sys.stderr, flush=True),
    )  # fmt: skip
    print(render_tables(results))


if __name__ == "__main__":
    main()
