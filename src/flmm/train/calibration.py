"""Calibration of an LMM's profile: which of its attention heads say where a phrase is.

The LMM describes each picture; the profile weighs a head by how well its maps of the description's
noun chunks agree with the mean of all heads' maps, or with true masks where there are any.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from PIL import Image
from torch import Tensor

from flmm.attention.trace import TracedPhrase
from flmm.attention.tracing import limit_new_tokens, trace_generation, trace_texts
from flmm.data.exchanges import ReferringProtocol, build_exchanges
from flmm.data.features import find_spans
from flmm.data.sample_loader import LoadedSample
from flmm.errors import InputError
from flmm.grounding.phrase_extraction import PhraseExtractor
from flmm.grounding.training_free_mask_predictor import TrainingFreeMaskPredictor
from flmm.head.prompt_templates import PromptTemplates
from flmm.lmm.base import LMMAdapter
from flmm.training_free.contrast import measure_head_agreement
from flmm.training_free.profile import Profile

_MAX_NEW_TOKENS = 64
"""Of a description."""


def calibrate_on_pictures(
    adapter: LMMAdapter, lmm: str, pictures: Iterable[Image.Image]
) -> Profile:
    """Calibrate on pictures alone.

    Args:
        adapter: the LMM.
        lmm: its name in the profile.
        pictures: any, such as a hundred that are like those to be used later.

    Raises:
        InputError: there is no picture, or the LMM names nothing in any of them.
    """
    agreements = _describe_pictures(adapter, pictures)
    return _build_profile(adapter, lmm, list(agreements), with_masks=False)


def calibrate_on_samples(adapter: LMMAdapter, lmm: str, samples: Iterable[LoadedSample]) -> Profile:
    """Calibrate on pictures with texts whose phrases have true masks.

    Args:
        adapter: the LMM.
        lmm: its name in the profile.
        samples: expressions are asked for one by one.

    Raises:
        InputError: there is no phrase.
    """
    predictor = TrainingFreeMaskPredictor(adapter, None)
    agreements = (
        agreement for sample in samples for agreement in _measure_sample(predictor, adapter, sample)
    )
    return _build_profile(adapter, lmm, list(agreements), with_masks=True)


@torch.no_grad()
def _describe_pictures(adapter: LMMAdapter, pictures: Iterable[Image.Image]) -> Iterator[Tensor]:
    extractor = PhraseExtractor(None, adapter.tokenizer, source="noun_chunks")
    for picture in pictures:
        prompt = adapter.build_prompt(picture, PromptTemplates().caption)
        limit = limit_new_tokens(adapter, prompt, _MAX_NEW_TOKENS)
        trace, text = trace_generation(adapter, prompt, limit)
        spans = [span for span in extractor.extract(trace, text) if span.tokens]
        if spans:
            yield measure_head_agreement([(span, trace) for span in spans])


@torch.no_grad()
def _measure_sample(
    predictor: TrainingFreeMaskPredictor, adapter: LMMAdapter, sample: LoadedSample
) -> Iterator[Tensor]:
    exchanges = build_exchanges(
        [loaded.text for loaded in sample.texts], PromptTemplates(), ReferringProtocol.ONE_BY_ONE
    )
    for exchange in exchanges:
        prompt = adapter.build_prompt(sample.picture, exchange.question, exchange.answer)
        (trace,) = trace_texts(
            adapter, [prompt], "question" if exchange.answer is None else "answer"
        )
        traced_phrases: list[TracedPhrase] = [
            (span, trace) for span in find_spans(exchange, prompt)
        ]
        masks = [
            torch.from_numpy(sample.texts[text].masks[phrase])
            for text, phrase in exchange.phrase_indices
        ]
        yield measure_head_agreement(
            predictor.add_references(sample.picture, traced_phrases), masks
        )


def _build_profile(
    adapter: LMMAdapter, lmm: str, agreements: Sequence[Tensor], with_masks: bool
) -> Profile:
    if not agreements:
        raise InputError(
            "there is no phrase to calibrate on; give more pictures, or an LMM that describes them"
        )
    all_agreements = torch.cat(list(agreements))
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
