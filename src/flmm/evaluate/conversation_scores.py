"""Scores of grounded conversation generation from a run's rows."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flmm.answers.json_types import CocoRLE
from flmm.evaluate.grounded_conversation import (
    CaptionPair,
    GroundedConversationScores,
    PredictedPhrase,
    TruePhrase,
    published_mask_recall,
    score_grounded_conversations,
)
from flmm.evaluate.rows import GeneratedPhraseRow, PhraseRow, SimilarityRow

_Caption = tuple[int, str]
"""A sample's index and its text's identity."""


class ConversationRows:
    """The rows of a run, by caption.

    Args:
        true: of every true phrase.
        generated: of every phrase that the LMM said.
    """

    def __init__(self, true: Sequence[PhraseRow], generated: Sequence[GeneratedPhraseRow]) -> None:
        self._true: dict[_Caption, list[PhraseRow]] = defaultdict(list)
        for row in true:
            self._true[row.sample, row.text_identity].append(row)
        self._generated: dict[_Caption, list[GeneratedPhraseRow]] = defaultdict(list)
        for phrase in generated:
            self._generated[phrase.sample, phrase.text_identity].append(phrase)
        self.caption_pairs = [
            CaptionPair(
                tuple(
                    PredictedPhrase(
                        phrase.text,
                        CocoRLE(size=[phrase.height, phrase.width], counts=phrase.mask),
                        phrase.score,
                    )
                    for phrase in self._generated[caption]
                ),
                tuple(
                    TruePhrase(
                        row.text, CocoRLE(size=[row.height, row.width], counts=row.true_mask)
                    )
                    for row in rows
                ),
            )
            for caption, rows in self._true.items()
        ]

    def scores(self) -> GroundedConversationScores:
        """Return the scores that need no text encoder."""
        return score_grounded_conversations(self.caption_pairs)

    def mask_recall(self, similarities: Sequence[SimilarityRow]) -> float:
        """Return the published mask recall in percent, by a text encoder's similarities."""
        values = {
            (row.sample, row.text_identity, row.said, row.phrase): row.similarity
            for row in similarities
        }
        matrices: list[NDArray[np.float64]] = [
            np.array(
                [
                    [values[*caption, said.phrase, row.phrase] for row in rows]
                    for said in self._generated[caption]
                ],
                dtype=np.float64,
            ).reshape(len(self._generated[caption]), len(rows))
            for caption, rows in self._true.items()
        ]
        return 100 * published_mask_recall(self.caption_pairs, matrices)
