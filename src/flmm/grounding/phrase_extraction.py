"""Which phrases of a text are grounded: the user's, the keyword selector's, or noun chunks."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from flmm.attention.canonical_text import compose
from flmm.attention.noun_chunks import find_noun_chunks
from flmm.attention.question_phrases import find_question_phrases
from flmm.attention.spans import (
    compute_token_offsets,
    find_phrase_spans,
    find_stable_mention,
    make_phrase_span,
)
from flmm.attention.trace import Trace
from flmm.attention.tracing import GenerationStep
from flmm.errors import InputError
from flmm.head.model import GroundingHead
from flmm.lmm.prompt import Offsets
from flmm.masks.selector import select_phrases, select_stable_phrases
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
            ranges = select_phrases(text, offsets, logits, head.config.selector_threshold)
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
        self._keyword_logits = torch.zeros(0)
        self._reported_spans: set[tuple[int, int]] = set()

    def update(self, step: GenerationStep, text: str) -> list[PhraseSpan]:
        """Add a token and return the phrases that have become final.

        Args:
            step: the next token of the answer.
            text: ``step.text``, or less of it.
        """
        extractor = self._extractor
        if extractor.phrases is not None:
            ranges = _find_complete_mentions(text, extractor.phrases)
        elif extractor.source == "selector":
            ranges = self._select_phrases(step, text)
        else:
            return []
        new = [span for span in ranges if span not in self._reported_spans]
        if not new:
            return []
        offsets = step.offsets()
        spans = [make_phrase_span(text, start, end, offsets) for start, end in new]
        complete = [
            span for span in spans if all(token < step.num_recorded for token in span.tokens)
        ]
        self._reported_spans.update((span.start, span.end) for span in complete)
        return complete

    def _select_phrases(self, step: GenerationStep, text: str) -> list[tuple[int, int]]:
        head = self._extractor.selecting_head
        num_classified = len(self._keyword_logits)
        if step.num_recorded > num_classified:
            # Each token is classified on its own, so its logit never changes.
            logits = head.keyword_logits(step.hidden_states(num_classified))
            self._keyword_logits = torch.cat([self._keyword_logits, logits.cpu()])
        threshold = head.config.selector_threshold
        return select_stable_phrases(text, step.offsets(), self._keyword_logits, threshold)


def _find_complete_mentions(text: str, phrases: Sequence[str]) -> list[tuple[int, int]]:
    occurrences: Counter[str] = Counter()
    mentions = []
    for phrase in phrases:
        mention = find_stable_mention(text, phrase, occurrences[compose(phrase)])
        occurrences[compose(phrase)] += 1
        if mention is not None:
            mentions.append(mention)
    return mentions
