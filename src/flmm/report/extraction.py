"""Features and true masks of pictures: every attention map of every phrase.

Letters: ``P`` phrases, ``M`` layers (times views), ``N`` heads, ``h w`` image-token grid, ``H W``
picture size.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flmm.data.exchanges import ReferringProtocol
from flmm.data.features import FeatureExtractor, GroundingFeatures, PictureExchanges, predict_masks
from flmm.data.sample import Sample
from flmm.errors import InputError
from flmm.grounding.grounder import Grounder
from flmm.head.config import HeadConfig
from flmm.head.model import GroundingHead
from flmm.pictures.geometry import resize_to_picture
from flmm.train.dataset import UncachedDataset, build_targets

PROTOCOL = ReferringProtocol.ONE_BY_ONE


@dataclass(frozen=True)
class ExtractedPicture:
    """Features and true masks of one picture's phrases."""

    index: int
    """Index of its sample."""
    picture_exchanges: PictureExchanges
    features: GroundingFeatures
    """With all M·N maps of each phrase, not only those that the head keeps."""
    masks: Tensor
    """(P, H, W) bool."""
    ignored_masks: Tensor
    """(P, H, W) bool."""
    phrase_texts: tuple[str, ...]
    kinds: tuple[str, ...]
    is_thing: tuple[bool | None, ...]

    @property
    def attention(self) -> Tensor:
        """(P, M·N, h, w) float32 on the CPU."""
        return torch.stack([phrase.attention for phrase in self.features.phrases]).cpu().float()


class PictureExtractor:
    """Extractor of all features that a grounder's frozen LMM and its head's SAM give for a head."""

    def __init__(self, grounder: Grounder, on_message: Callable[[str], None]) -> None:
        self.grounder = grounder
        adapter, head = grounder.adapter, grounder.head
        if head is None:
            config = HeadConfig(
                adapter.layers, adapter.heads, adapter.hidden_size, adapter.views, refine=False
            )
            self.feature_extractor = FeatureExtractor(adapter, config, None)
        else:
            config = replace(head.config, kept_maps=None, selector=False)
            self.feature_extractor = FeatureExtractor(adapter, config, head.refiner)
        self._on_message = on_message
        self._reported: set[str] = set()

    def extract(
        self, samples: Sequence[Sample], indices: Sequence[int]
    ) -> Iterator[ExtractedPicture]:
        """Yield the features of samples by index; those that cannot be used are left out.

        The same pictures are extracted for several measurements; each is reported once.
        """
        dataset = UncachedDataset(samples, self.feature_extractor, PROTOCOL, self._report_once)
        for index in indices:
            loaded = dataset.load_sample(index)
            if loaded is None:
                continue
            sample, picture_exchanges = loaded
            try:
                (features,) = self.feature_extractor.extract([picture_exchanges])
            except InputError as error:
                self._report_once(f"left out: {str(sample.sample.picture)!r}: {error}")
                continue
            owners = [
                owner
                for exchange in picture_exchanges.exchanges
                for owner in exchange.phrase_indices
            ]
            phrases = [sample.texts[text].text.phrases[phrase] for text, phrase in owners]
            kinds = tuple(sample.texts[text].text.kind for text, _ in owners)
            phrase_texts = tuple(
                sample.texts[text].text.text[phrase.start : phrase.end]
                for (text, _), phrase in zip(owners, phrases, strict=True)
            )
            masks, ignored = build_targets(sample, picture_exchanges)
            is_thing = tuple(phrase.is_thing for phrase in phrases)
            yield ExtractedPicture(
                index, picture_exchanges, features, masks, ignored, phrase_texts, kinds, is_thing
            )

    def _report_once(self, line: str) -> None:
        if line not in self._reported:
            self._reported.add(line)
            self._on_message(line)


@torch.no_grad()
def predict_head_masks(head: GroundingHead, features: GroundingFeatures) -> tuple[Tensor, Tensor]:
    """Predict (P, H, W) bool, of the mask decoder and of the refiner, on the CPU."""
    kept = tuple(
        replace(phrase, attention=head.config.select_maps(phrase.attention))
        for phrase in features.phrases
    )
    device = next(head.parameters()).device
    output = predict_masks(head, replace(features, phrases=kept), device=device)
    decoded = resize_to_picture(output.mask_logits.float(), features.geometry) > 0
    return decoded.cpu(), (output.refined_logits > 0).cpu()
