"""The rows that an evaluation stores; its tables are computed from them alone."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from flmm.types import Box


@dataclass(frozen=True)
class PhraseRow:
    """One true phrase and its predicted mask."""

    dataset: str
    protocol: str
    sample: int
    """Index in the data set."""
    picture: str
    text_identity: str
    kind: str
    """"caption", "expression" or "instruction"."""
    sentence: str
    """The text."""
    phrase: int
    """Index in the text."""
    start: int
    """In code points of ``sentence``."""
    end: int
    text: str
    is_thing: bool | None
    """None: unknown, or both in one phrase."""
    plural: bool
    decoder_intersection: int | None
    """Pixels, without ignored ones; None for generated captions, whose decoder masks are not
    kept, and without a head."""
    decoder_union: int | None
    refined_intersection: int
    refined_union: int
    predicted_box: Box
    """(x0, y0, x1, y1) around the refined mask, x1 and y1 exclusive; zeros when it is empty."""
    true_box: Box
    box_iou: float
    score: float
    """In 0..1, as ``Phrase.score``; 0 when the refined mask is empty."""
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
    """One caption, and counts of the phrases that the keyword selector chose in it."""

    dataset: str
    sample: int
    picture: str
    text_identity: str
    hits: int
    """Chosen phrases that are true ones, with exactly the same start and end."""
    chosen: int
    wanted: int
    """True phrases."""


@dataclass(frozen=True)
class GeneratedPhraseRow:
    """One phrase of a generated caption."""

    dataset: str
    sample: int
    picture: str
    text_identity: str
    """Of the true caption that it is compared with."""
    sentence: str
    """The generated caption."""
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
class SimilarityRow:
    """How similar a text encoder finds one phrase of a generated caption and one true phrase."""

    sample: int
    text_identity: str
    said: int
    """``GeneratedPhraseRow.phrase``."""
    phrase: int
    """``PhraseRow.phrase``."""
    similarity: float
    """Cosine, in -1..1."""


@dataclass(frozen=True)
class AnswerRow:
    """One question, asked in one way, and the LMM's answer."""

    dataset: str
    sample: int
    """Index in the benchmark."""
    picture: str
    text_identity: str
    """The question's, in its data set."""
    question: str
    true_answer: str
    locate: str | None
    """"answer", "question" or "truth": where the region is from; None: asked plainly."""
    crop: str | None
    """"box", "mask" or "random": what was shown of the region; None: asked plainly."""
    located: str | None
    """The phrase whose mask is the region; None where nothing was located, and asked plainly."""
    box: Box
    """(x0, y0, x1, y1) of the part that was shown, x1 and y1 exclusive; zeros: asked plainly."""
    true_box: Box
    answer: str
    exact_match: bool
    containment: bool
    anls: float
    """The answer's term in ANLS, in 0..1."""
    judge: str | None = None
    """The judge's model; None before it is asked."""
    judgement: float | None = None
    """The judge's score in 0..1; None without a readable one."""


@dataclass(frozen=True)
class JudgementRow:
    """A judge's reply about one answer; equal answers to equal questions have one."""

    judge: str
    """Its model."""
    prompt: str
    """Fingerprint of the judge's prompt."""
    question: str
    true_answer: str
    answer: str
    reply: str
    """Whole, or the server's reason for giving none."""
    score: float | None
    """In 0..1; None where the reply has none."""


@dataclass(frozen=True)
class SampleRow:
    """One sample: whether it was measured, and what was skipped."""

    sample: int
    picture: str
    measured: bool
    skipped_texts: int
    """Of a picture that was measured."""
    skipped_phrases: int
    """Blank phrases of texts that were measured."""
    told: tuple[str, ...]
    """The reasons why something was skipped, one line each."""


@dataclass(frozen=True)
class SampleResult:
    """All rows of one sample."""

    row: SampleRow
    phrases: tuple[PhraseRow, ...] = ()
    captions: tuple[SelectorRow, ...] = ()
    said: tuple[GeneratedPhraseRow, ...] = ()
    answers: tuple[AnswerRow, ...] = ()

    def with_messages(self, messages: Iterable[str]) -> "SampleResult":
        """Return a copy with the reasons why something was skipped."""
        return replace(self, row=replace(self.row, told=tuple(messages)))
