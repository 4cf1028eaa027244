"""Which phrases of a text are grounded: the user's, the keyword selector's, or noun chunks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from flmm.attention.generation_step import GenerationStep
from flmm.attention.groundable_phrases import keep_groundable
from flmm.attention.noun_chunks import find_noun_chunks
from flmm.attention.question_phrases import find_question_phrases
from flmm.attention.spans import (
    StableMentions,
    compute_token_offsets,
    find_phrase_spans,
    make_phrase_span,
)
from flmm.attention.trace import Trace
from flmm.errors import InputError
from flmm.head.model import GroundingHead
from flmm.lmm.prompt import Offsets
from flmm.masks.selector import PhraseSelection, select_phrases
from flmm.types import PhraseSpan

PhraseSource = Literal["selector", "noun_chunks"]
"""What chooses the phrases: the head's keyword selector, or spaCy's noun chunks."""


@dataclass(frozen=True)
class PhraseExtractor:
    """An extractor of the phrases of a text that are grounded.

    Raises:
        InputError: there is no such source, or it is the selector and there is no head.
    """

    head: GroundingHead | None
    tokenizer: PreTrainedTokenizerBase
    phrases: Sequence[str] | None = None
    """As they stand in the text; None lets ``source`` choose."""
    source: PhraseSource | None = None
    """None for the head's selector where there is a head that has one."""

    def __post_init__(self) -> None:
        if self.source is None:
            has_selector = self.head is not None and self.head.selector is not None
            object.__setattr__(self, "source", "selector" if has_selector else "noun_chunks")
        if self.source not in ("selector", "noun_chunks"):
            raise InputError(
                f"phrase_source is {self.source!r}; choose 'selector' or 'noun_chunks'"
            )
        if self.source == "selector" and self.head is None:
            raise InputError(
                "phrase_source is 'selector', which is part of a trained head, and there is none;"
                " choose 'noun_chunks', or name the phrases"
            )

    def extract(
        self,
        trace: Trace,
        text: str,
        offsets: Offsets | None = None,
        part: Literal["answer", "question"] = "answer",
    ) -> list[PhraseSpan]:
        """Return the phrases of a complete text.

        Args:
            trace: of the text.
            text: decoded from its tokens.
            offsets: of its tokens; None computes those of a generated answer.
            part: what the text is; noun chunks are chosen by other rules in a question.

        Raises:
            InputError: a given phrase is not in the text, or the head has no selector.
        """
        if offsets is None:
            offsets = compute_token_offsets(self.tokenizer, trace.token_ids, text)
        if self.phrases is not None:
            return find_phrase_spans(text, self.phrases, offsets)
        if self.source == "noun_chunks":
            ranges = find_noun_chunks(text) if part == "answer" else find_question_phrases(text)
        else:
            head = self.selecting_head
            logits = head.keyword_logits(trace.hidden_states)
            threshold = head.config.selector_threshold
            ranges = keep_groundable(text, select_phrases(text, offsets, logits, threshold))
        return [make_phrase_span(text, start, end, offsets) for start, end in ranges]

    @property
    def selecting_head(self) -> GroundingHead:
        """The head whose selector is the source."""
        assert self.head is not None
        return self.head


class StreamingPhraseExtractor:
    """An extractor of an answer's phrases during generation, each as soon as it is final.

    A given phrase is final with its last letter and its last token's attention row; a selected one
    with the next word that is not part of it. Noun chunks need the whole sentence, and given parts
    of words the whole answer, so those are left to ``PhraseExtractor.extract``.
    """

    def __init__(self, extractor: PhraseExtractor) -> None:
        self._extractor = extractor
        self._mentions = StableMentions(extractor.phrases or ())
        self._unrecorded: list[PhraseSpan] = []
        """Phrases of which the last token's row is not there yet."""
        self._selection = None
        if extractor.phrases is None and extractor.source == "selector":
            head = extractor.selecting_head
            self._selection = PhraseSelection(head.config.selector_threshold)
        self._keyword_logits: list[float] = []

    def update(self, step: GenerationStep, text: str) -> list[PhraseSpan]:
        """Add a token and return the phrases that have become final.

        Args:
            step: the next token of the answer.
            text: ``step.text``, or less of it.
        """
        if self._selection is not None:
            return self._select_phrases(self._selection, step, text)
        if mentions := self._mentions.add(text):
            offsets = step.offsets(0)
            self._unrecorded += [make_phrase_span(text, *mention, offsets) for mention in mentions]
        waiting, self._unrecorded = self._unrecorded, []
        complete: list[PhraseSpan] = []
        for span in waiting:
            is_complete = all(token < step.num_recorded for token in span.tokens)
            (complete if is_complete else self._unrecorded).append(span)
        return complete

    def _select_phrases(
        self, selection: PhraseSelection, step: GenerationStep, text: str
    ) -> list[PhraseSpan]:
        head = self._extractor.selecting_head
        num_classified = len(self._keyword_logits)
        if step.num_recorded > num_classified:
            # Each token is classified on its own, so its logit never changes.
            logits = head.keyword_logits(step.hidden_states(num_classified))
            self._keyword_logits += logits.float().tolist()
        first = selection.first_token
        offsets = step.offsets(first)
        ranges = selection.add(text, offsets, torch.tensor(self._keyword_logits[first:]))
        kept = keep_groundable(text, ranges)
        return [make_phrase_span(text, start, end, offsets, first) for start, end in kept]
