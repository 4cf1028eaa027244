"""Loaded samples, predicted masks, and the rows of both.

Letters: ``H W`` picture size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flmm.answers.run_lengths import encode_rle
from flmm.data.sample_loader import LoadedSample, LoadedText
from flmm.errors import InputError
from flmm.evaluate.metrics import box_iou, compute_overlap
from flmm.evaluate.rows import PhraseRow, SampleResult, SampleRow
from flmm.pictures.geometry import mask_box

EMPTY_BOX = (0, 0, 0, 0)
"""The box of an empty mask."""


@dataclass(frozen=True)
class IndexedSample:
    """A loaded sample and its index in the data set."""

    index: int
    loaded: LoadedSample

    @property
    def picture(self) -> str:
        return str(self.loaded.sample.picture)


@dataclass(frozen=True)
class Prediction:
    """The predicted masks of one phrase, (H, W) bool, and their score."""

    refined_mask: Tensor
    decoder_mask: Tensor | None
    """None where no mask decoder took part, or its mask was not kept."""
    score: float


def evaluate_one_by_one(
    samples: Sequence[IndexedSample], evaluate_sample: Callable[[IndexedSample], SampleResult]
) -> list[SampleResult | InputError]:
    """Return the rows of each sample, or its error."""
    results: list[SampleResult | InputError] = []
    for sample in samples:
        try:
            results.append(evaluate_sample(sample))
        except InputError as error:
            results.append(error)
    return results


def build_sample_row(
    sample: IndexedSample, skipped_phrases: int = 0, skipped_texts: Sequence[str] = ()
) -> SampleRow:
    """Return the row of a sample that was measured.

    ``skipped_texts``: the reasons for texts that were loaded, but not measured.
    """
    num_skipped = len(sample.loaded.sample.texts) - len(sample.loaded.texts) + len(skipped_texts)
    return SampleRow(
        sample.index, sample.picture, True, num_skipped, skipped_phrases, tuple(skipped_texts)
    )


def build_phrase_row(
    dataset: str,
    protocol: str,
    sample: IndexedSample,
    loaded: LoadedText,
    phrase_index: int,
    prediction: Prediction,
) -> PhraseRow:
    """Return the row of a true phrase and its predicted mask."""
    phrase = loaded.text.phrases[phrase_index]
    true = torch.from_numpy(loaded.masks[phrase_index])
    ignored = torch.from_numpy(loaded.ignored_masks[phrase_index])[None]
    refined = compute_overlap(prediction.refined_mask[None], true[None], ignored)
    decoder = None
    if prediction.decoder_mask is not None:
        decoder = compute_overlap(prediction.decoder_mask[None], true[None], ignored)
    predicted_box, true_box = (
        mask_box(prediction.refined_mask) or EMPTY_BOX,
        mask_box(true) or EMPTY_BOX,
    )
    height, width = true.shape
    return PhraseRow(
        dataset=dataset,
        protocol=protocol,
        sample=sample.index,
        picture=sample.picture,
        text_identity=loaded.text.identity,
        kind=loaded.text.kind,
        sentence=loaded.text.text,
        phrase=phrase_index,
        start=phrase.start,
        end=phrase.end,
        text=phrase.words(loaded.text.text),
        is_thing=phrase.is_thing,
        plural=phrase.plural,
        decoder_intersection=None if decoder is None else int(decoder.intersection),
        decoder_union=None if decoder is None else int(decoder.union),
        refined_intersection=int(refined.intersection),
        refined_union=int(refined.union),
        predicted_box=predicted_box,
        true_box=true_box,
        box_iou=box_iou(torch.tensor([predicted_box]), torch.tensor([true_box])).item(),
        score=prediction.score,
        predicted_pixels=int(prediction.refined_mask.sum()),
        true_pixels=int(true.sum()),
        height=height,
        width=width,
        predicted_mask=encode_rle(prediction.refined_mask.numpy())["counts"],
        true_mask=encode_rle(loaded.masks[phrase_index])["counts"],
    )
