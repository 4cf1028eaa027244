"""Evaluation of published training-free methods on given texts."""

from collections.abc import Iterator, Sequence
from itertools import islice

import torch

from flmm.data.exchanges import ReferringProtocol, build_exchanges
from flmm.data.features import trace_exchange
from flmm.data.sample import Sample
from flmm.data.sample_loader import SampleLoader
from flmm.errors import InputError
from flmm.evaluate.predictions import Prediction
from flmm.evaluate.training_free_evaluator import TrainingFreeEvaluator
from flmm.grounding.grounder import Grounder
from flmm.head.prompt_templates import PromptTemplates
from flmm.lmm.base import LMMAdapter
from flmm.masks.mean_probability import compute_mean_probability
from flmm.segmenters.base import Segmenter
from flmm.stopwatch import Stopwatch
from flmm.training_free.baselines.base import Baseline
from flmm.training_free.baselines.by_name import BASELINES
from flmm.training_free.baselines.localization_heads import LocalizationHeads
from flmm.training_free.traced_text import TracedText

_MAX_TEXTS_TO_FIT = 1000
"""Texts that localization heads are chosen from: the number of samples in the paper."""


class BaselineEvaluator(TrainingFreeEvaluator):
    """Evaluates a published method with a grounder's LMM and SAM.

    Args:
        grounder: without a head, with a SAM.
        baseline: the method.
        dataset, protocol: as in ``TeacherForcedEvaluator``.
    """

    def __init__(
        self, grounder: Grounder, baseline: Baseline, dataset: str, protocol: ReferringProtocol
    ) -> None:
        super().__init__(grounder.adapter, grounder.pipeline.mask_predictor, dataset, protocol)
        self.baseline = baseline
        self.segmenter = require_segmenter(grounder, baseline.name)

    def predict(self, extracted: tuple[TracedText, ...]) -> list[Prediction]:
        embeddings = self.mask_predictor.embed_picture(extracted[0].picture, Stopwatch())
        assert embeddings is not None
        by_text = self.baseline.predict_logits(self.adapter, extracted, self.segmenter, embeddings)
        return [
            Prediction(logits > 0, None, compute_mean_probability(logits))
            for of_text in by_text
            for logits in of_text.cpu()
        ]


def require_segmenter(grounder: Grounder, method: str) -> Segmenter:
    """Return the SAM that a published method prompts.

    Raises:
        InputError: the grounder has a head or a profile, or no SAM.
    """
    if grounder.head is not None or grounder.profile is not None:
        raise InputError(
            f"method {method!r} takes neither a head nor a profile; name the LMM with --lmm, and"
            " leave out --model"
        )
    if grounder.segmenter is None:
        raise InputError(f"method {method!r} prompts a SAM; name one with --sam")
    return grounder.segmenter


def create_baseline(
    name: str, adapter: LMMAdapter, samples: Sequence[Sample], protocol: ReferringProtocol
) -> Baseline:
    """Return a published method, ready for an LMM.

    Args:
        name: of ``BASELINES``.
        adapter: the LMM.
        samples: whose texts localization heads are chosen from, without looking at a mask.
        protocol: how referring expressions are asked.

    Raises:
        InputError: the method does not suit the LMM, or no localization head is found.
    """
    BASELINES[name].check_suits(adapter)
    if name == LocalizationHeads.name:
        texts = islice(_trace_texts(adapter, samples, protocol), _MAX_TEXTS_TO_FIT)
        return LocalizationHeads(LocalizationHeads.fit(adapter, texts))
    return BASELINES[name]()


@torch.no_grad()
def _trace_texts(
    adapter: LMMAdapter, samples: Sequence[Sample], protocol: ReferringProtocol
) -> Iterator[TracedText]:
    """Yield the samples' texts; those that cannot be read are left out.

    The evaluation itself reports them.
    """
    for loaded in SampleLoader(lambda _: None).load(samples):
        texts = [of_text.text for of_text in loaded.texts]
        for exchange in build_exchanges(texts, PromptTemplates(), protocol):
            try:
                yield trace_exchange(adapter, loaded.picture, exchange)
            except InputError:
                continue
