"""Questions and given answers whose trace has the attention of a phrase."""

import re
from dataclasses import dataclass

_ARTICLE = re.compile(r"^(the|an?)\s+(?=\S)", re.IGNORECASE)


@dataclass(frozen=True)
class PromptTemplates:
    """The questions whose given answers are captions and phrases to segment."""

    caption: str = "What is in the picture?"
    segment: str = "Where is {phrase} in the picture?"
    """If it has "the {phrase}", question and answer have the phrase with the article "the", whether
    or not the phrase was given with an article."""

    def build_segment_exchange(self, phrase: str) -> tuple[str, str]:
        """Return the question and the given answer for a phrase to segment."""
        answer = phrase
        if "the {phrase}" in self.segment:
            phrase = _ARTICLE.sub("", phrase)
            answer = f"the {phrase}"
        return self.segment.replace("{phrase}", phrase), answer[0].upper() + answer[1:]
