"""Counts of what a run measured and what it skipped."""

from collections.abc import Sequence
from dataclasses import dataclass

from flmm.evaluate.rows import SampleRow


@dataclass(frozen=True)
class EvaluationCounts:
    """Counts of what was measured and what was skipped."""

    pictures: int
    """Pictures that were measured."""
    skipped_pictures: int
    skipped_texts: int
    """Of pictures that were measured."""
    skipped_phrases: int
    """Of texts that were measured."""

    @property
    def summary(self) -> str:
        """One line for a run's end."""
        return (
            f"{self.pictures} pictures measured; skipped {self.skipped_pictures} pictures, and of"
            f" others {self.skipped_texts} texts and {self.skipped_phrases} phrases"
        )


def count_samples(rows: Sequence[SampleRow]) -> EvaluationCounts:
    """Return the counts of a run."""
    return EvaluationCounts(
        sum(row.measured for row in rows),
        sum(not row.measured for row in rows),
        sum(row.skipped_texts for row in rows),
        sum(row.skipped_phrases for row in rows),
    )
