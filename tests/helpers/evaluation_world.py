"""A tiny head, a benchmark, and the results of an uninterrupted run."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from accelerate import PartialState
from command import run_in_process
from pycocotools import mask as coco
from tiny_grounding import save_lmm, save_tiny_head

from flmm.data.exchanges import ReferringProtocol
from flmm.data.fixtures import write_plain
from flmm.data.readers.plain import read_plain
from flmm.data.sample import Sample
from flmm.evaluate.benchmark import Benchmark, Scoring
from flmm.evaluate.rows import PhraseRow
from flmm.evaluate.run import evaluate
from flmm.evaluate.score_tables import EvaluationReport, build_report
from flmm.grounding.grounder import Grounder

# Several parts of samples, the last one not full.
PICTURES = 11


@dataclass(frozen=True)
class EvaluationSetup:
    """A head and a benchmark on disk, and the folder of an uninterrupted run."""

    head: Path
    texts: Path
    out: Path
    grounder: Grounder

    @property
    def samples(self) -> list[Sample]:
        return read_plain(self.texts)

    def arguments(self, out: Path) -> list[str]:
        """Return the command's arguments for the same run."""
        return [
            "evaluate", "plain", "--name", "texts", "--file", str(self.texts), "--model",
            str(self.head), "--device", "cpu", "--out", str(out), "--json",
        ]  # fmt: skip


def measure(
    grounder: Grounder,
    samples: list[Sample],
    out: Path,
    *,
    protocol: ReferringProtocol = ReferringProtocol.TOGETHER,
    scoring: Scoring = Scoring.BY_KIND,
    on_message: Callable[[str], None] = pytest.fail,
    name: str = "texts",
) -> EvaluationReport:
    benchmark = Benchmark(name, {}, samples, scoring)
    evaluate(grounder, benchmark, protocol, out, PartialState(cpu=True), on_message)
    return build_report(out)


def make_setup(folder: Path) -> EvaluationSetup:
    lmm = save_lmm(folder / "lmm")
    head = save_tiny_head(folder / "head", str(lmm))
    write_plain(folder / "plain", PICTURES)
    texts = folder / "plain" / "texts.jsonl"
    grounder = Grounder.from_pretrained(str(head), device="cpu")
    out = folder / "out"
    measure(grounder, read_plain(texts), out)
    return EvaluationSetup(head, texts, out, grounder)


def same_results(first: Path, second: Path) -> bool:
    names = ("results.parquet", "captions.parquet", "said.parquet", "samples.parquet")
    return all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


def mask_of(row: PhraseRow, counts: str) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    decoded = coco.decode({"size": [row.height, row.width], "counts": counts})
    return np.asarray(decoded, dtype=np.bool_)


def command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    ended = run_in_process(arguments, capsys)
    assert (ended.code, ended.err) == (0, "")
    content = json.loads(ended.out)
    assert isinstance(content, dict)
    return content
