"""The model, the data and the cache folder that claims are measured with."""

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

from flmm.data.sample import Sample
from flmm.errors import InputError
from flmm.evaluate.benchmark import Benchmark, build_run_record, head_fingerprint
from flmm.grounding.grounder import Grounder
from flmm.head.model import GroundingHead
from flmm.progress import ProgressCallback
from flmm.report.data import ReportData
from flmm.report.extraction import PROTOCOL, PictureExtractor


class ReportContext:
    """The model, data, cache folder and callbacks that claims are measured with.

    Args:
        grounder: the model.
        data: the pictures.
        work_folder: for intermediate results, which an interrupted run resumes from.
        on_message: called with a line for each picture that is left out.
        on_progress: called with (done, total, what).
    """

    def __init__(
        self,
        grounder: Grounder,
        data: ReportData,
        work_folder: Path,
        on_message: Callable[[str], None],
        on_progress: ProgressCallback,
    ) -> None:
        self.grounder = grounder
        self.data = data
        self.work_folder = work_folder
        self.on_message = on_message
        self.on_progress = on_progress

    def require_head(self) -> GroundingHead:
        """Return the grounder's head.

        Raises:
            InputError: there is none.
        """
        if self.grounder.head is None:
            raise InputError("this claim needs a head that was trained for the LMM; give --model")
        return self.grounder.head

    @cached_property
    def picture_extractor(self) -> PictureExtractor:
        """Extractor of the grounder's features."""
        return PictureExtractor(self.grounder, self.on_message)

    @cached_property
    def cache_key(self) -> dict[str, str]:
        """All that measurements depend on beside training."""
        record = build_run_record(
            self.grounder, Benchmark(self.data.name, {}, self.data.measured), PROTOCOL
        )
        head = self.grounder.head
        return {
            "data": self.data.name,
            "measured": f"{record.samples} pictures, {record.samples_fingerprint}",
            "calibration": self.fingerprint_samples(self.data.calibration),
            # No claim is about scores.
            "head": record.head_fingerprint
            if head is None
            else head_fingerprint(head, with_scores=False),
            "LMM": record.lmm_fingerprint,
            "numbers": record.dtype,
        }

    def fingerprint_samples(self, samples: Sequence[Sample]) -> str:
        """Return the number and a fingerprint of at least one sample."""
        record = build_run_record(self.grounder, Benchmark(self.data.name, {}, samples), PROTOCOL)
        return f"{record.samples} pictures, {record.samples_fingerprint}"


def key_digest(key: dict[str, str]) -> str:
    """Return a digest of a key, for file names."""
    return blake2b(json.dumps(key).encode(), digest_size=8).hexdigest()
