"""What training and validation go through: pictures with what the head sees and should say.

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
    """One picture: what the head sees of its phrases, and where they are."""

    features: GroundingFeatures
    masks: Tensor
    """(P, H, W) bool, on the CPU."""
    ignored_masks: Tensor
    """(P, H, W) bool: neither learned nor measured."""


class TrainingDataset(Protocol):
    """Pictures by number, wherever their features come from."""

    def __len__(self) -> int:
        """How many there are, those included that cannot be read."""

    def get(self, indices: Sequence[int]) -> list[TrainingExample]:
        """Those of the numbers that can be read, in their order."""


class UncachedDataset:
    """Runs the frozen models anew each time that a picture is wanted.

    Args:
        samples: the pictures and their texts.
        extractor: with the frozen models.
        protocol: how expressions are asked.
        tell: given one line for each picture or text that is left out, the first time.
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
        """Reads the pictures and runs the frozen models, all texts of all of them together."""
        return [one for one in self.get_or_none(indices) if one is not None]

    def get_or_none(self, indices: Sequence[int]) -> list[TrainingExample | None]:
        """``get`` with None in the place of each picture that cannot be read."""
        read = [self.load_sample(number) for number in indices]
        readable = [one for one in read if one is not None]
        try:
            found = iter(self._extract(readable))
        except InputError:
            found = iter([self._extract_one(one) for one in readable])
        return [None if one is None else next(found) for one in read]

    def load_sample(self, index: int) -> tuple[LoadedSample, PictureExchanges] | None:
        """A picture and what the LMM is asked about it; None where it cannot be read."""
        sample = next(SampleLoader(self._report_once).load([self.samples[index]]), None)
        if sample is None:
            return None
        texts = [text.text for text in sample.texts]
        asked = exchanges.build_exchanges(texts, self.extractor.head.config, self.protocol)
        if not asked:
            self._report_once(f"skipped: {str(sample.sample.picture)!r} has no phrase to ground")
            return None
        return sample, PictureExchanges(sample.picture, asked)

    def _extract(
        self, loaded: Sequence[tuple[LoadedSample, PictureExchanges]]
    ) -> list[TrainingExample | None]:
        features = self.extractor.extract([asked for _, asked in loaded])
        return [
            TrainingExample(found, *build_targets(sample, asked))
            for found, (sample, asked) in zip(features, loaded, strict=True)
        ]

    def _extract_one(self, loaded: tuple[LoadedSample, PictureExchanges]) -> TrainingExample | None:
        try:
            return self._extract([loaded])[0]
        except InputError as error:
            self._report_once(f"skipped: {str(loaded[0].sample.picture)!r}: {error}")
            return None

    def _report_once(self, line: str) -> None:
        if line not in self._reported:
            self._reported.add(line)
            self._on_message(line)


def build_targets(sample: LoadedSample, asked: PictureExchanges) -> tuple[Tensor, Tensor]:
    """(P, H, W) bool masks of the phrases that are asked for, and what is ignored of each."""
    owners = [owner for exchange in asked.exchanges for owner in exchange.phrase_indices]
    masks = np.stack([sample.texts[text].masks[phrase] for text, phrase in owners])
    ignored = np.stack([sample.texts[text].ignored_masks[phrase] for text, phrase in owners])
    return torch.from_numpy(masks), torch.from_numpy(ignored)
