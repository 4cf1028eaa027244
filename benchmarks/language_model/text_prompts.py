"""Text-only prompts, and what their right answers have.

``text_prompts.jsonl`` has a line for each: its kind, the prompt, and a regular expression that is
searched in the answer, without regard to case and with "." for any character. Sums must be the
last number that an answer gives, numbers that are asked for as facts the first.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flmm.report.overlaps import Interval, share_interval

KINDS = ("facts", "arithmetic", "rewriting", "small talk")
ALL_KINDS = "all"


@dataclass(frozen=True)
class TextPrompt:
    """A prompt without a picture."""

    kind: str
    """One of ``KINDS``."""
    prompt: str
    accept: str
    """A regular expression that is found in right answers."""

    def is_right(self, answer: str) -> bool:
        """Return whether the answer has what is asked for."""
        return re.search(self.accept, answer, re.IGNORECASE | re.DOTALL) is not None


def read_text_prompts() -> tuple[TextPrompt, ...]:
    """Read the 200 prompts."""
    content = Path(__file__).with_name("text_prompts.jsonl").read_text(encoding="utf-8")
    return tuple(TextPrompt(**json.loads(line)) for line in content.splitlines())


def score_texts(prompts: Sequence[TextPrompt], answers: Sequence[str]) -> dict[str, Interval]:
    """Return the share of right answers, by the kinds that occur and for ``ALL_KINDS``."""
    outcomes: dict[str, list[list[bool]]] = {}
    for prompt, answer in zip(prompts, answers, strict=True):
        for kind in (prompt.kind, ALL_KINDS):
            outcomes.setdefault(kind, []).append([prompt.is_right(answer)])
    intervals = {
        kind: share_interval(outcomes[kind]) for kind in (*KINDS, ALL_KINDS) if kind in outcomes
    }
    return {kind: interval for kind, interval in intervals.items() if interval is not None}
