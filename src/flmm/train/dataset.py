"""The training and validation data: pictures with features and true masks.

Letters: ``P`` phrases, ``H W`` picture size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from flmm.data import exchanges
from flmm.data.features import FeatureExtractor, GroundingFeatures, PictureExchanges
from flmm.data.sample import Sample
from flmm.data.sample_loader import LoadedSample, SampleLoader
from flmm.errors import InputError


@dataclass(frozen=True)
class TrainingExample:
    """One picture: the features of its phrases and their true masks."""

    features: GroundingFeatures
    masks: Tensor
    """(P, H, W) bool, on the CPU."""
    ignored_masks: Tensor
    """(P, H, W) bool: pixels that count neither for the loss nor for validation."""


class TrainingDataset(Protocol):
    """Training examples by index, with extracted or cached features."""

    def __len__(self) -> int:
        """Return the number of pictures, including those that cannot be read."""

    def get(self, indices: Sequence[int]) -> list[TrainingExample]:
        """Return the examples at ``indices``, in order, without those that cannot be read."""


class UncachedDataset:
    """A data set that runs the frozen models every time a picture is read.

    Args:
        samples: the pictures and their texts.
        extractor: runs the frozen models.
        protocol: how expressions are asked.
        on_message: called with one line for each skipped picture or text, once each.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        extractor: FeatureExtractor,
        protocol: exchanges.ReferringProtocol,
        on_message: Callable[[str], None],
    ) -> None:
        self.samples = samples
        self.extractor = extractor
        self.protocol = protocol
        self._on_message = on_message
        self._reported: set[str] = set()

    def __len__(self) -> int:
        return len(self.samples)

    def get(self, indices: Sequence[int]) -> list[TrainingExample]:
        """Return the readable examples; all texts of all pictures go through the LMM together."""
        return [example for example in self.get_or_none(indices) if example is not None]

    def get_or_none(self, indices: Sequence[int]) -> list[TrainingExample | None]:
        """Return what ``get`` does, with None for each picture that cannot be read."""
        loaded = [self.load_sample(index) for index in indices]
        readable = [sample for sample in loaded if sample is not None]
        try:
            examples = iter(self._extract(readable))
        except InputError:
            # One bad text fails the whole batch: find it, and keep the others.
            examples = iter([self._extract_or_skip(sample) for sample in readable])
        return [None if sample is None else next(examples) for sample in loaded]

    def load_sample(self, index: int) -> tuple[LoadedSample, PictureExchanges] | None:
        """Return a picture and its exchanges with the LMM; None where it cannot be read."""
        sample = next(SampleLoader(self._report_once).load([self.samples[index]]), None)
        if sample is None:
            return None
        texts = [text.text for text in sample.texts]
        built = exchanges.build_exchanges(
            texts, self.extractor.config.prompt_templates, self.protocol
        )
        if not built:
            self._report_once(f"skipped: {str(sample.sample.picture)!r} has no phrase to ground")
            return None
        return sample, PictureExchanges(sample.picture, built)

    def _extract(
        self, loaded: Sequence[tuple[LoadedSample, PictureExchanges]]
    ) -> list[TrainingExample | None]:
        features = self.extractor.extract([picture_exchanges for _, picture_exchanges in loaded])
        return [
            TrainingExample(extracted, *build_targets(*sample))
            for extracted, sample in zip(features, loaded, strict=True)
        ]

    def _extract_or_skip(
        self, loaded: tuple[LoadedSample, PictureExchanges]
    ) -> TrainingExample | None:
        try:
            return self._extract([loaded])[0]
        except InputError as error:
            self._report_once(f"skipped: {str(loaded[0].sample.picture)!r}: {error}")
            return None

    def _report_once(self, line: str) -> None:
        if line not in self._reported:
            self._reported.add(line)
            self._on_message(line)


def build_targets(
    sample: LoadedSample, picture_exchanges: PictureExchanges
) -> tuple[Tensor, Tensor]:
    """Return (P, H, W) bool true masks and ignored masks of the phrases in the exchanges."""
    indices = [
        index for exchange in picture_exchanges.exchanges for index in exchange.phrase_indices
    ]
    masks = np.stack([sample.texts[text].masks[phrase] for text, phrase in indices])
    ignored = np.stack([sample.texts[text].ignored_masks[phrase] for text, phrase in indices])
    return torch.from_numpy(masks), torch.from_numpy(ignored)
