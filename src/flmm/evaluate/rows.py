"""What is kept of each phrase that was measured; tables are cut from these rows alone."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from flmm.types import Box


@dataclass(frozen=True)
class PhraseRow:
    """One true phrase and how well it was found."""

    dataset: str
    protocol: str
    sample: int
    """Which of the data set's samples, from 0."""
    picture: str
    text_identity: str
    kind: str
    """"caption", "expression" or "instruction"."""
    sentence: str
    """The whole text."""
    phrase: int
    """Which of its text's phrases, from 0."""
    start: int
    """In code points of ``sentence``."""
    end: int
    text: str
    is_thing: bool | None
    """None: unknown, or both in one phrase."""
    plural: bool
    decoder_intersection: int | None
    """Pixels, without ignored ones; None where the LMM spoke for itself and only refined masks
    are made."""
    decoder_union: int | None
    refined_intersection: int
    refined_union: int
    predicted_box: Box
    """(x0, y0, x1, y1) around the refined mask, x1 and y1 exclusive; zeros when it is empty."""
    true_box: Box
    box_iou: float
    score: float
    """Mean probability inside the refined mask, in 0.5..1; 0 when it is empty."""
    predicted_pixels: int
    true_pixels: int
    height: int
    """Of the picture and both masks."""
    width: int
    predicted_mask: str
    """COCO's compressed run lengths of the refined mask."""
    true_mask: str


@dataclass(frozen=True)
class SelectorRow:
    """One caption, and which of its words the keyword selector chose."""

    dataset: str
    sample: int
    picture: str
    text_identity: str
    hits: int
    """Chosen phrases that are true ones, with both ends exact."""
    chosen: int
    wanted: int


@dataclass(frozen=True)
class GeneratedPhraseRow:
    """One phrase of the LMM's own caption, where a benchmark lets it speak."""

    dataset: str
    sample: int
    picture: str
    text_identity: str
    """Of the true caption that it is compared with."""
    sentence: str
    phrase: int
    start: int
    end: int
    text: str
    box: Box
    score: float
    height: int
    width: int
    mask: str
    """COCO's compressed run lengths."""


@dataclass(frozen=True)
class SampleRow:
    """One sample: whether it was measured."""

    sample: int
    picture: str
    measured: bool
    skipped_texts: int
    """Of a picture that was measured."""
    skipped_phrases: int
    """Of texts that were measured: those of nothing but blanks."""
    told: tuple[str, ...]
    """Why something was skipped, one line each."""


@dataclass(frozen=True)
class SampleResult:
    """All rows of one sample."""

    row: SampleRow
    phrases: tuple[PhraseRow, ...] = ()
    captions: tuple[SelectorRow, ...] = ()
    said: tuple[GeneratedPhraseRow, ...] = ()

    def with_messages(self, messages: Iterable[str]) -> "SampleResult":
        """The same, with why something was skipped."""
        return replace(self, row=replace(self.row, told=tuple(messages)))
