"""Results of ``language_model.conversation``, and their tables."""

from collections.abc import Sequence
from dataclasses import dataclass

from flmm.report.markdown import markdown_table
from flmm.report.overlaps import Interval
from flmm.report.segmentation_token.conversation_scores import (
    ALL_BUT_WHERE,
    TASKS,
    ConversationScores,
)
from language_model.text_prompts import ALL_KINDS, KINDS, TextPrompt, score_texts


@dataclass(frozen=True)
class TextAnswers:
    """A model's greedy answers."""

    texts: tuple[str, ...]
    token_ids: tuple[tuple[int, ...], ...]
    """Without the one that ends the answer."""

    def count_same(self, others: "TextAnswers") -> int:
        """Return how many answers have exactly the tokens of the others."""
        return sum(a == b for a, b in zip(self.token_ids, others.token_ids, strict=True))


@dataclass(frozen=True)
class SceneAnswers:
    """A model's greedy caption of a scene, and its answers to questions about it."""

    answers: TextAnswers
    same_with_masks: int | None = None
    """Answers of ``Grounder.chat`` that are the LMM's alone; None if it was not asked."""
    phrases: int = 0
    """With a mask, in the answers of ``Grounder.chat``."""


@dataclass(frozen=True)
class PictureAnswers:
    """What all of a model's captions and answers about scenes have right."""

    scores: ConversationScores
    answers: int
    """Captions included."""
    same_with_masks: int | None
    phrases: int


@dataclass(frozen=True)
class ModelConversation:
    """What one model says."""

    name: str
    texts: TextAnswers
    token_id: int | None = None
    pictures: PictureAnswers | None = None
    """None for an LLM alone."""

    @property
    def texts_with_token(self) -> int:
        """The number of answers to text-only prompts with the segmentation token."""
        return sum(self.token_id in token_ids for token_ids in self.texts.token_ids)


@dataclass(frozen=True)
class ConversationResults:
    """What all models say, the LLM alone first."""

    models: tuple[ModelConversation, ...]


def render_tables(results: ConversationResults, prompts: Sequence[TextPrompt]) -> str:
    """Return a table of the text-only prompts and, if some were asked, of pictures."""
    tables = [_render_texts(results, prompts)]
    rows = [
        [model.name, *_picture_cells(model.pictures)]
        for model in results.models
        if model.pictures is not None
    ]
    if rows:
        titles = [
            "pictures",
            "captions: named of what is there",
            "captions: absent of what is named",
            *(f"right: {task}" for task in (*TASKS, ALL_BUT_WHERE)),
            "the same with masks",
        ]
        tables.append(markdown_table(titles, rows))
    return "\n\n".join(tables)


def _render_texts(results: ConversationResults, prompts: Sequence[TextPrompt]) -> str:
    alone = results.models[0].texts
    rows = []
    for model in results.models:
        scores = score_texts(prompts, model.texts.texts)
        count = len(model.texts.texts)
        rows.append(
            [
                model.name,
                *(_cell(scores.get(kind)) for kind in (*KINDS, ALL_KINDS)),
                f"{model.texts.count_same(alone)} of {count}",
                "–" if model.token_id is None else f"{model.texts_with_token} of {count}",
            ]
        )
    titles = ["text-only prompts", *KINDS, ALL_KINDS, f"tokens of {results.models[0].name}",
              "with `<SEG>`"]  # fmt: skip
    return markdown_table(titles, rows)


def _picture_cells(pictures: PictureAnswers) -> list[str]:
    scores, same = pictures.scores, pictures.same_with_masks
    return [
        str(scores.named),
        _cell(scores.absent),
        *(_cell(scores.right.get(task)) for task in (*TASKS, ALL_BUT_WHERE)),
        "–" if same is None else f"{same} of {pictures.answers} ({pictures.phrases} phrases)",
    ]


def _cell(interval: Interval | None) -> str:
    return "–" if interval is None else str(interval)
