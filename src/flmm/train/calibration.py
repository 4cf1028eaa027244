"""Calibration of an LMM's profile: which of its attention heads say where a phrase is.

The LMM describes each picture; the profile weighs a head by how well its maps of the description's
noun chunks agree with the mean of all heads' maps, or with true masks where there are any.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor

from flmm.attention.trace import TracedPhrase
from flmm.attention.tracing import trace_generation
from flmm.data.exchanges import ReferringProtocol, build_exchanges
from flmm.data.features import trace_exchange
from flmm.data.sample_loader import LoadedSample
from flmm.errors import InputError
from flmm.grounding.phrase_extraction import PhraseExtractor
from flmm.grounding.training_free_mask_predictor import TrainingFreeMaskPredictor
from flmm.head.prompt_templates import PromptTemplates
from flmm.lmm.base import LMMAdapter
from flmm.pictures.reading import PictureLike, read_picture
from flmm.train.fit import MessageCallback
from flmm.training_free.contrast import measure_head_agreement
from flmm.training_free.profile import Profile

_MAX_NEW_TOKENS = 64
"""Of a description."""


def calibrate_on_pictures(
    adapter: LMMAdapter,
    lmm: str,
    pictures: Iterable[PictureLike],
    on_message: MessageCallback,
) -> Profile:
    """Calibrate on pictures alone.

    Args:
        adapter: the LMM.
        lmm: its name in the profile.
        pictures: any, such as a hundred that are like those to be used later.
        on_message: called with one line for each picture that is skipped.

    Raises:
        InputError: no picture can be used, or the LMM names nothing in any of them.
    """
    extractor = PhraseExtractor(None, adapter.tokenizer, source="noun_chunks")

    def measure(picture: PictureLike) -> Iterator[Tensor]:
        return _measure_description(adapter, extractor, read_picture(picture))

    return _calibrate(adapter, lmm, pictures, measure, on_message, with_masks=False)


def calibrate_on_samples(
    adapter: LMMAdapter,
    lmm: str,
    samples: Iterable[LoadedSample],
    on_message: MessageCallback,
) -> Profile:
    """Calibrate on pictures with texts whose phrases have true masks.

    Args:
        adapter: the LMM.
        lmm: its name in the profile.
        samples: expressions are asked for one by one.
        on_message: called with one line for each sample that is skipped.

    Raises:
        InputError: no sample can be used.
    """
    predictor = TrainingFreeMaskPredictor(adapter, None)

    def measure(sample: LoadedSample) -> Iterator[Tensor]:
        return _measure_sample(predictor, adapter, sample)

    return _calibrate(adapter, lmm, samples, measure, on_message, with_masks=True)


def _measure_description(
    adapter: LMMAdapter, extractor: PhraseExtractor, picture: Image.Image
) -> Iterator[Tensor]:
    """Yield the heads' agreements, (P, M·N), on what the LMM names in a picture."""
    prompt = adapter.build_prompt(picture, PromptTemplates().caption)
    trace, text = trace_generation(adapter, prompt, _MAX_NEW_TOKENS)
    if spans := [span for span in extractor.extract(trace, text) if span.tokens]:
        yield measure_head_agreement([(span, trace) for span in spans])


def _measure_sample(
    predictor: TrainingFreeMaskPredictor, adapter: LMMAdapter, sample: LoadedSample
) -> Iterator[Tensor]:
    """Yield the heads' agreements, (P, M·N), with the true masks of each of a picture's texts."""
    exchanges = build_exchanges(
        [loaded.text for loaded in sample.texts], PromptTemplates(), ReferringProtocol.ONE_BY_ONE
    )
    for exchange in exchanges:
        text = trace_exchange(adapter, sample.picture, exchange)
        traced_phrases: list[TracedPhrase] = [(span, text.trace) for span in text.spans]
        masks = [
            torch.from_numpy(sample.texts[owner].masks[phrase])
            for owner, phrase in exchange.phrase_indices
        ]
        yield measure_head_agreement(
            predictor.add_references(sample.picture, traced_phrases), masks
        )


Item = TypeVar("Item")


@torch.no_grad()
def _calibrate(
    adapter: LMMAdapter,
    lmm: str,
    items: Iterable[Item],
    measure: Callable[[Item], Iterator[Tensor]],
    on_message: MessageCallback,
    *,
    with_masks: bool,
) -> Profile:
    agreements: list[Tensor] = []
    for item in items:
        try:
            # All of a picture or nothing.
            agreements.extend(list(measure(item)))
        except InputError as error:
            name = item.sample.picture if isinstance(item, LoadedSample) else item
            on_message(f"skipped {str(name)!r}: {error}")
    return _build_profile(adapter, lmm, agreements, with_masks)


def _build_profile(
    adapter: LMMAdapter, lmm: str, agreements: Sequence[Tensor], with_masks: bool
) -> Profile:
    if not agreements:
        raise InputError(
            "there is no phrase to calibrate on in any picture that can be used; give others, or an"
            " LMM that describes them"
        )
    all_agreements = torch.cat(tuple(agreements))
    weights = all_agreements.mean(dim=0).clamp(0, 1)
    if not weights.any():
        raise InputError(
            f"none of the LMM's {len(weights)} heads agrees with where phrases are; without a"
            " profile all count alike"
        )
    return Profile(
        layers=adapter.layers,
        heads=adapter.heads,
        views=adapter.views,
        base_model_name_or_path=lmm,
        base_model_type=adapter.model_type,
        head_weights=tuple(round(float(weight), 4) for weight in weights),
        num_phrases=len(all_agreements),
        with_masks=with_masks,
    )
