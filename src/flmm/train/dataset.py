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
from flmm.data.features import AskedPicture, FeatureExtractor, GroundingFeatures
from flmm.data.sample import Sample
from flmm.data.sample_loader import Reading, ReadSample
from flmm.errors import InputError


@dataclass(frozen=True)
class TrainingPicture:
    """One picture: what the head sees of its phrases, and where they are."""

    features: GroundingFeatures
    masks: Tensor
    """(P, H, W) bool, on the CPU."""
    ignored: Tensor
    """(P, H, W) bool: neither learned nor measured."""


class TrainingPictures(Protocol):
    """Pictures by number, wherever their features come from."""

    def __len__(self) -> int:
        """How many there are, those included that cannot be read."""

    def get(self, numbers: Sequence[int]) -> list[TrainingPicture]:
        """Those of the numbers that can be read, in their order."""


class LivePictures:
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
        protocol: exchanges.Protocol,
        tell: Callable[[str], None],
    ) -> None:
        self.samples = samples
        self.extractor = extractor
        self.protocol = protocol
        self._tell = tell
        self._told: set[str] = set()

    def __len__(self) -> int:
        return len(self.samples)

    def get(self, numbers: Sequence[int]) -> list[TrainingPicture]:
        """Reads the pictures and runs the frozen models, all texts of all of them together."""
        return [one for one in self.get_each(numbers) if one is not None]

    def get_each(self, numbers: Sequence[int]) -> list[TrainingPicture | None]:
        """``get`` with None in the place of each picture that cannot be read."""
        read = [self.read(number) for number in numbers]
        readable = [one for one in read if one is not None]
        try:
            found = iter(self._extract(readable))
        except InputError:
            found = iter([self._extract_alone(one) for one in readable])
        return [None if one is None else next(found) for one in read]

    def read(self, number: int) -> tuple[ReadSample, AskedPicture] | None:
        """A picture and what the LMM is asked about it; None where it cannot be read."""
        sample = next(Reading(self._tell_once).read([self.samples[number]]), None)
        if sample is None:
            return None
        texts = [text.text for text in sample.texts]
        asked = exchanges.exchanges_of(texts, self.extractor.head.config, self.protocol)
        if not asked:
            self._tell_once(f"skipped: {str(sample.sample.picture)!r} has no phrase to ground")
            return None
        return sample, AskedPicture(sample.picture, asked)

    def _extract(
        self, read: Sequence[tuple[ReadSample, AskedPicture]]
    ) -> list[TrainingPicture | None]:
        features = self.extractor.extract([asked for _, asked in read])
        return [
            TrainingPicture(found, *targets_of(sample, asked))
            for found, (sample, asked) in zip(features, read, strict=True)
        ]

    def _extract_alone(self, read: tuple[ReadSample, AskedPicture]) -> TrainingPicture | None:
        try:
            return self._extract([read])[0]
        except InputError as error:
            self._tell_once(f"skipped: {str(read[0].sample.picture)!r}: {error}")
            return None

    def _tell_once(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            self._tell(line)


def targets_of(sample: ReadSample, asked: AskedPicture) -> tuple[Tensor, Tensor]:
    """(P, H, W) bool masks of the phrases that are asked for, and what is ignored of each."""
    owners = [owner for exchange in asked.exchanges for owner in exchange.phrases]
    masks = np.stack([sample.texts[text].masks[phrase] for text, phrase in owners])
    ignored = np.stack([sample.texts[text].ignored[phrase] for text, phrase in owners])
    return torch.from_numpy(masks), torch.from_numpy(ignored)
