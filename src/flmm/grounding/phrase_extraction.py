"""Which phrases of a text are grounded: those that the user names, or whose choice it is.

Letters: ``T`` tokens of the text.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

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
"""Who says which words are grounded: the head's classifier, or spaCy's grammar."""


@dataclass(frozen=True)
class PhraseExtractor:
    """Chooses the phrases of a text.

    Raises:
        InputError: there is no such source.
    """

    head: GroundingHead
    tokenizer: PreTrainedTokenizerBase
    phrases: Sequence[str] | None = None
    """As they stand in the text; None lets ``source`` choose."""
    source: PhraseSource | None = None
    """None for the head's selector when it has one."""

    def __post_init__(self) -> None:
        if self.source is None:
            own: PhraseSource = "noun_chunks" if self.head.selector is None else "selector"
            object.__setattr__(self, "source", own)
        if self.source not in ("selector", "noun_chunks"):
            raise InputError(
                f"phrase_source is {self.source!r}; choose 'selector' or 'noun_chunks'"
            )

    def extract(
        self,
        trace: Trace,
        text: str,
        offsets: Offsets | None = None,
        part: Literal["answer", "question"] = "answer",
    ) -> list[PhraseSpan]:
        """The phrases of a whole text.

        Args:
            trace: of the text.
            text: what its tokens say.
            offsets: of its tokens; None for those of an answer that was generated.
            of: which of the two it is; grammar names other phrases in a question.

        Raises:
            InputError: a given phrase is not in the text, or the head has no selector to ask.
        """
        if offsets is None:
            offsets = compute_token_offsets(self.tokenizer, trace.token_ids, text)
        if self.phrases is not None:
            return find_phrase_spans(text, self.phrases, offsets)
        if self.source == "noun_chunks":
            found = find_noun_chunks(text) if part == "answer" else find_question_phrases(text)
        else:
            logits = self.head.keyword_logits(trace.hidden_states)
            found = select_phrases(text, offsets, logits, self.head.config.selector_threshold)
        return [make_phrase_span(text, start, end, offsets) for start, end in found]


class StreamingPhraseExtractor:
    """The phrases of an answer that is being said, each as soon as nothing can change it.

    A given phrase is complete with its last letter and its last token's row; one of the selector's
    with the next word that is not part of it. Noun chunks need the whole sentence, and given parts
    of words the whole answer, so those are left to ``PhraseChoice.spans``.
    """

    def __init__(self, extractor: PhraseExtractor) -> None:
        self._extractor = extractor
        self._token_ids: list[int] = []
        self._keyword_logits = torch.zeros(0)
        self._reported_spans: set[tuple[int, int]] = set()

    def update(self, step: GenerationStep, text: str) -> list[PhraseSpan]:
        """The phrases that are complete since the step before.

        Args:
            step: each token of the answer, in turn.
            text: the answer so far, without a character that is not complete.
        """
        self._token_ids.append(step.token_id)
        choice = self._extractor
        if choice.phrases is not None:
            found = _find_complete_mentions(text, choice.phrases)
        elif choice.source == "selector":
            found = self._select_phrases(step, text)
        else:
            return []
        new = [span for span in found if span not in self._reported_spans]
        if not new:
            return []
        offsets = self._offsets(text)
        spans = [make_phrase_span(text, start, end, offsets) for start, end in new]
        complete = [
            span for span in spans if all(token < step.num_recorded for token in span.tokens)
        ]
        self._reported_spans.update((span.start, span.end) for span in complete)
        return complete

    def _select_phrases(self, step: GenerationStep, text: str) -> list[tuple[int, int]]:
        judged = len(self._keyword_logits)
        if step.num_recorded > judged:
            # Each token is judged by itself, so that none is ever judged twice.
            logits = self._extractor.head.keyword_logits(step.hidden_states(judged)).cpu()
            self._keyword_logits = torch.cat([self._keyword_logits, logits])
        threshold = self._extractor.head.config.selector_threshold
        return select_stable_phrases(text, self._offsets(text), self._keyword_logits, threshold)

    def _offsets(self, text: str) -> Offsets:
        return compute_token_offsets(self._extractor.tokenizer, torch.tensor(self._token_ids), text)


def _find_complete_mentions(text: str, phrases: Sequence[str]) -> list[tuple[int, int]]:
    listed: Counter[str] = Counter()
    found = []
    for phrase in phrases:
        mention = find_stable_mention(text, phrase, listed[phrase])
        listed[phrase] += 1
        if mention is not None:
            found.append(mention)
    return found
