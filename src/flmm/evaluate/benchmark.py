"""Benchmarks, and the record of a run: what must not change while its parts are measured."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from hashlib import blake2b
from pathlib import Path

import torch

from flmm.atomic_write import write_file_atomically
from flmm.data.exchanges import ReferringProtocol
from flmm.data.sample import Sample
from flmm.errors import InputError
from flmm.grounding.grounder import Grounder
from flmm.grounding.loading import NO_SEGMENTER
from flmm.head.checkpoint import trained_state_dict
from flmm.head.model import GroundingHead
from flmm.head.weights import fingerprint_weights
from flmm.lmm.model_names import is_folder_name
from flmm.training_free.baselines.by_name import BASELINES
from flmm.training_free.masks import METHOD_VERSION

_RUN_FILE = "run.json"


class Scoring(StrEnum):
    """The tables that a benchmark's rows give."""

    BY_KIND = "by kind"
    """One for captions, expressions and instructions each."""
    REASON_SEG = "ReasonSeg"
    """One for expressions and instructions, as in ReasonSeg."""
    CONVERSATION = "conversation"
    """The LMM generates a caption, whose phrases are compared with the true ones."""
    ANSWERS = "answers"
    """The LMM answers questions, plainly and with a closer look."""


@dataclass(frozen=True)
class Benchmark:
    """A data set to measure on."""

    name: str
    source: Mapping[str, object]
    """The data source as JSON values, recorded in ``run.json``."""
    samples: Sequence[Sample]
    scoring: Scoring = Scoring.BY_KIND
    dataset_names: Sequence[str] = ()
    """The data set of each sample, where there are several."""

    @property
    def default_protocol(self) -> ReferringProtocol:
        """How its expressions are asked for unless the user says.

        One by one if each has a question of its own, which asking for all together would drop.
        """
        questions = {
            text.question
            for sample in self.samples
            for text in sample.texts
            if text.kind == "expression"
        }
        if questions and None not in questions:
            return ReferringProtocol.ONE_BY_ONE
        return ReferringProtocol.TOGETHER


@dataclass(frozen=True)
class RunRecord:
    """The content of ``run.json``."""

    dataset: str
    source: dict[str, object]
    samples: int
    samples_fingerprint: str
    scoring: str
    protocol: str
    model: str
    head_fingerprint: str
    """Of the head; without one, of the segmenter."""
    lmm: str
    lmm_fingerprint: str
    dtype: str
    """Of the LMM's weights."""
    method: str = "head"
    """"head", "training-free", or a published method's name."""
    sam: str = ""
    """Of masks without a head: its name or "none"; empty with a head."""
    text_encoder: str = ""
    """What last compared the phrases of generated captions; empty if nothing did."""


def build_run_record(
    grounder: Grounder,
    benchmark: Benchmark,
    protocol: ReferringProtocol,
    baseline: str | None = None,
) -> RunRecord:
    """Return the record of a run of this grounder on this benchmark.

    ``baseline``: a published method's name, in place of the grounder's own.

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
        model=baseline or grounder.model,
        head_fingerprint=mask_model_fingerprint(grounder, baseline),
        lmm=grounder.lmm,
        lmm_fingerprint=fingerprint_weights(grounder.adapter.model),
        dtype=str(grounder.adapter.dtype).removeprefix("torch."),
        method=baseline or grounder.pipeline.mask_predictor.method,
        sam=_segmenter_name(grounder),
    )


def mask_model_fingerprint(grounder: Grounder, baseline: str | None = None) -> str:
    """Return a hash of what makes masks beside the LMM, and how, 16 hexadecimal digits.

    ``baseline``: a published method's name, in place of the grounder's own.
    """
    if grounder.head is not None:
        return head_fingerprint(grounder.head)
    weights = NO_SEGMENTER
    if grounder.segmenter is not None:
        weights = fingerprint_weights(grounder.segmenter) + grounder.segmenter.precision.mark
    # Where the profile's LMM is does not matter.
    head_weights = None if grounder.profile is None else grounder.profile.head_weights
    method = f"{grounder.pipeline.mask_predictor.method} {METHOD_VERSION} {head_weights}"
    if baseline is not None:
        method = f"{baseline} {BASELINES[baseline].version}"
    key = f"{method} {weights}"
    return blake2b(key.encode(), digest_size=8).hexdigest()


def build_run_name(
    grounder: Grounder, dataset: str, protocol: str, baseline: str | None = None
) -> str:
    """Return a folder's name for the results of a grounder, or a baseline, on a data set."""
    name = f"{dataset}-{protocol}-{mask_model_fingerprint(grounder, baseline)[:8]}"
    if grounder.head is None:
        # A head is of one LMM, a segmenter goes with all.
        name += f"-{fingerprint_weights(grounder.adapter.model)[:8]}"
    return re.sub(r"[^\w.+-]+", "-", name)


def _segmenter_name(grounder: Grounder) -> str:
    if grounder.head is not None:
        return ""
    if grounder.segmenter is None:
        return NO_SEGMENTER
    return str(grounder.segmenter.sam.name_or_path)


def head_fingerprint(head: GroundingHead, with_scores: bool = True) -> str:
    """Return a hash of a head's config, weights and precision, 16 hexadecimal digits.

    It is the same wherever the folders of the LMM and SAM are. ``with_scores`` False: and however
    the head's scores are calibrated, which changes no mask.
    """
    config = asdict(head.config)
    # The LMM has a fingerprint of its own; heads of older versions lack what SAM they have.
    for field in ("base_model_type", "refiner_model_type", "refiner_encoder_num_parameters"):
        del config[field]
    if config["score_calibration"] is None or not with_scores:
        # Neither do they have this.
        del config["score_calibration"]
    for field in ("base_model_name_or_path", "refiner_name_or_path"):
        if is_folder_name(config[field]):
            config[field] = Path(config[field]).name
    key = json.dumps(config) + head.refiner.segmenter.precision.mark
    digest = blake2b(key.encode(), digest_size=8)
    for name, tensor in sorted(trained_state_dict(head).items()):
        flat = tensor.detach().cpu().contiguous().view(-1)
        digest.update(name.encode() + flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def prepare_run_folder(out: Path, record: RunRecord) -> None:
    """Write ``run.json`` into a folder, or check that the folder's run is this one.

    Every process of a run may call this at once: all write the same bytes.

    Raises:
        InputError: the folder holds another run, or cannot be written.
    """
    file = out / _RUN_FILE
    if not file.exists():
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"cannot make the folder {str(out)!r} ({error.strerror}); choose another --out"
            ) from error
        _write_run_record(out, record)
    if difference := _describe_difference(read_run_record(out), record):
        raise InputError(f"{str(out)!r} holds another run: {difference}; choose another --out")


def _describe_difference(old: RunRecord, new: RunRecord) -> str | None:
    """Say in a user's words in what two runs differ first; None where they are the same.

    The folders of the head, the LMM and SAM may have moved: their fingerprints are compared. The
    text encoder has no part in the run.
    """
    if old.source != new.source:
        for name in sorted(old.source.keys() | new.source.keys()):
            before, now = old.source.get(name), new.source.get(name)
            if before != now:
                return f"its data has {name} {before!r}, this one's {now!r}"
    if old.samples != new.samples:
        return f"its data has {old.samples} pictures, this one's {new.samples}"
    if old.samples_fingerprint != new.samples_fingerprint:
        return f"the pictures or texts of {new.dataset!r} have changed since"
    named = {
        "dataset": "data set", "scoring": "scoring", "protocol": "protocol", "method": "method",
        "dtype": "LMM's dtype",
    }  # fmt: skip
    for name, words in named.items():
        if getattr(old, name) != getattr(new, name):
            return f"its {words} is {getattr(old, name)!r}, this one's {getattr(new, name)!r}"
    if old.lmm_fingerprint != new.lmm_fingerprint:
        return _describe_other_weights("LMM", old.lmm, new.lmm)
    if old.head_fingerprint != new.head_fingerprint:
        if new.method == "head":
            return _describe_other_weights("head", old.model, new.model)
        if old.sam != new.sam:
            return _describe_other_weights("SAM", old.sam, new.sam)
        return (
            f"it has masks of another profile, of another SAM in the folder {new.sam!r}, or of"
            " another version of the method"
        )
    return None


def _describe_other_weights(role: str, old: str, new: str) -> str:
    if old == new:
        return f"its {role} {old!r} had other weights or settings than are there now"
    return f"its {role} is {old!r}, this one's {new!r}"


def read_run_record(out: Path) -> RunRecord:
    """Read ``run.json`` of a folder.

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


def change_run_record(out: Path, text_encoder: str) -> None:
    """Write another text encoder into ``run.json`` of a folder.

    Raises:
        InputError: there is no run in the folder, or it cannot be written.
    """
    _write_run_record(out, replace(read_run_record(out), text_encoder=text_encoder))


def _write_run_record(out: Path, record: RunRecord) -> None:
    content = json.dumps(asdict(record), indent=2) + "\n"
    write_file_atomically(out / _RUN_FILE, content.encode())


def _samples_fingerprint(samples: Sequence[Sample]) -> str:
    digest = blake2b(digest_size=8)
    for sample in samples:
        phrases = [
            (
                text.identity, text.kind, text.text, text.question, phrase.start, phrase.end,
                *([] if text.answer is None else [text.answer]),
                *([] if phrase.label is None else [phrase.label]),
            )
            for text in sample.texts
            for phrase in text.phrases
        ]  # fmt: skip
        digest.update(repr((str(sample.picture), phrases)).encode(errors="surrogatepass"))
    return digest.hexdigest()
