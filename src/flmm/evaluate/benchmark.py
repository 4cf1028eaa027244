"""What a run measures, with what, and how: all that must be the same for its parts to fit."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from hashlib import blake2b
from pathlib import Path

import torch

from flmm.atomic_write import write_file_atomically
from flmm.data.exchanges import ReferringProtocol
from flmm.data.sample import Sample
from flmm.errors import InputError
from flmm.grounding.grounder import Grounder
from flmm.head.checkpoint import trained_state_dict
from flmm.head.model import GroundingHead
from flmm.head.weights import fingerprint_weights

_RUN_FILE = "run.json"


class Scoring(StrEnum):
    """Which tables a benchmark's rows make."""

    BY_KIND = "by kind"
    """Captions, expressions and instructions each their own."""
    REASON_SEG = "ReasonSeg"
    """Expressions and instructions in one, as ReasonSeg wants them."""
    CONVERSATION = "conversation"
    """The LMM says its own caption, whose phrases are compared with the true ones."""


@dataclass(frozen=True)
class Benchmark:
    """A data set to measure on."""

    name: str
    source: Mapping[str, object]
    """What was read, in JSON's values; kept so that people can see it."""
    samples: Sequence[Sample]
    scoring: Scoring = Scoring.BY_KIND


@dataclass(frozen=True)
class RunRecord:
    """What ``run.json`` says of a run."""

    dataset: str
    source: dict[str, object]
    samples: int
    samples_fingerprint: str
    scoring: str
    protocol: str
    model: str
    head_fingerprint: str
    lmm: str
    lmm_fingerprint: str
    dtype: str
    """Of the LMM's numbers."""


def build_run_record(
    grounder: Grounder, benchmark: Benchmark, protocol: ReferringProtocol
) -> RunRecord:
    """What stands for a run of this grounder on this benchmark.

    Raises:
        InputError: the benchmark has no sample.
    """
    if not benchmark.samples:
        raise InputError(f"benchmark {benchmark.name!r} has no picture; check its file")
    return RunRecord(
        dataset=benchmark.name,
        source=json.loads(json.dumps(benchmark.source)),
        samples=len(benchmark.samples),
        samples_fingerprint=_samples_fingerprint(benchmark.samples),
        scoring=benchmark.scoring.value,
        protocol=protocol.value,
        model=grounder.model,
        head_fingerprint=head_fingerprint(grounder.head),
        lmm=grounder.lmm,
        lmm_fingerprint=fingerprint_weights(grounder.adapter.model),
        dtype=str(grounder.adapter.dtype).removeprefix("torch."),
    )


def head_fingerprint(head: GroundingHead) -> str:
    """A head's shape and weights in 16 hexadecimal digits."""
    digest = blake2b(json.dumps(asdict(head.config)).encode(), digest_size=8)
    for name, tensor in sorted(trained_state_dict(head).items()):
        flat = tensor.detach().cpu().contiguous().view(-1)
        digest.update(name.encode() + flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def prepare_run_folder(out: Path, record: RunRecord) -> None:
    """Makes a folder this run's, or goes on in it.

    Every process of a run may call this at once: they write the same.

    Raises:
        InputError: it holds another run, or cannot be written.
    """
    file = out / _RUN_FILE
    if not file.exists():
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"cannot make the folder {str(out)!r} ({error.strerror}); choose another --out"
            ) from error
        write_file_atomically(file, (json.dumps(asdict(record), indent=2) + "\n").encode())
    there = read_run_record(out)
    for name in (field.name for field in fields(RunRecord)):
        old, new = getattr(there, name), getattr(record, name)
        # A head that was moved is the same head.
        if old != new and name != "model":
            raise InputError(
                f"{str(out)!r} holds another run: its {name} is {old!r}, this one's {new!r};"
                " choose another --out"
            )


def read_run_record(out: Path) -> RunRecord:
    """What a folder's run measured.

    Raises:
        InputError: there is no run in the folder, or its ``run.json`` is damaged.
    """
    file = out / _RUN_FILE
    try:
        return RunRecord(**json.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(
            f"there is no {str(file)!r}; give the --out of a run of `flmm evaluate`"
        ) from error
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{str(file)!r} is damaged ({error}); choose another --out, or delete this folder"
        ) from error


def _samples_fingerprint(samples: Sequence[Sample]) -> str:
    digest = blake2b(digest_size=8)
    for sample in samples:
        phrases = [
            (text.identity, text.kind, text.text, text.question, phrase.start, phrase.end)
            for text in sample.texts
            for phrase in text.phrases
        ]
        digest.update(repr((str(sample.picture), phrases)).encode(errors="surrogatepass"))
    return digest.hexdigest()
