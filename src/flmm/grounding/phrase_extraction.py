"""Which phrases of a text are grounded: those that the user names, or whose choice it is.

Letters: ``T`` tokens of the text.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from flmm.attention.noun_chunks import noun_chunks
from flmm.attention.question_phrases import question_phrases
from flmm.attention.spans import settled_mention, span_at, spans_for, token_offsets
from flmm.attention.trace import Trace
from flmm.attention.tracing import Step
from flmm.errors import InputError
from flmm.head.model import GroundingHead
from flmm.lmm.prompt import Offsets
from flmm.masks.selector import select_phrases, settled_phrases
from flmm.types import PhraseSpan

PhraseSource = Literal["selector", "noun_chunks"]
"""Who says which words are grounded: the head's classifier, or spaCy's grammar."""


@dataclass(frozen=True)
class PhraseChoice:
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

    def spans(
        self,
        trace: Trace,
        text: str,
        offsets: Offsets | None = None,
        of: Literal["answer", "question"] = "answer",
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
            offsets = token_offsets(self.tokenizer, trace.token_ids, text)
        if self.phrases is not None:
            return spans_for(text, self.phrases, offsets)
        if self.source == "noun_chunks":
            found = noun_chunks(text) if of == "answer" else question_phrases(text)
        else:
            logits = self.head.keyword_logits(trace.hidden_states)
            found = select_phrases(text, offsets, logits, self.head.config.selector_threshold)
        return [span_at(text, start, end, offsets) for start, end in found]


class PhrasesSoFar:
    """The phrases of an answer that is being said, each as soon as nothing can change it.

    A given phrase is complete with its last letter and its last token's row; one of the selector's
    with the next word that is not part of it. Noun chunks need the whole sentence, and given parts
    of words the whole answer, so those are left to ``PhraseChoice.spans``.
    """

    def __init__(self, choice: PhraseChoice) -> None:
        self._choice = choice
        self._token_ids: list[int] = []
        self._logits = torch.zeros(0)
        self._told: set[tuple[int, int]] = set()

    def after(self, step: Step, text: str) -> list[PhraseSpan]:
        """The phrases that are complete since the step before.

        Args:
            step: each token of the answer, in turn.
            text: the answer so far, without a character that is not complete.
        """
        self._token_ids.append(step.token_id)
        choice = self._choice
        if choice.phrases is not None:
            found = _settled_mentions(text, choice.phrases)
        elif choice.source == "selector":
            found = self._selected(step, text)
        else:
            return []
        new = [span for span in found if span not in self._told]
        if not new:
            return []
        offsets = self._offsets(text)
        spans = [span_at(text, start, end, offsets) for start, end in new]
        complete = [span for span in spans if all(token < step.known for token in span.tokens)]
        self._told.update((span.start, span.end) for span in complete)
        return complete

    def _selected(self, step: Step, text: str) -> list[tuple[int, int]]:
        judged = len(self._logits)
        if step.known > judged:
            # Each token is judged by itself, so that none is ever judged twice.
            logits = self._choice.head.keyword_logits(step.hidden_states(judged)).cpu()
            self._logits = torch.cat([self._logits, logits])
        threshold = self._choice.head.config.selector_threshold
        return settled_phrases(text, self._offsets(text), self._logits, threshold)

    def _offsets(self, text: str) -> Offsets:
        return token_offsets(self._choice.tokenizer, torch.tensor(self._token_ids), text)


def _settled_mentions(text: str, phrases: Sequence[str]) -> list[tuple[int, int]]:
    listed: Counter[str] = Counter()
    found = []
    for phrase in phrases:
        mention = settled_mention(text, phrase, listed[phrase])
        listed[phrase] += 1
        if mention is not None:
            found.append(mention)
    return found
