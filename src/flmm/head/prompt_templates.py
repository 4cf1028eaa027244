"""Questions and given answers whose trace has the attention of a phrase."""

import re

from flmm.head.config import HeadConfig

DEFAULT_SEGMENT_PROMPT = "Where is {phrase} in the picture?"
DEFAULT_CAPTION_PROMPT = "What is in the picture?"

_ARTICLE = re.compile(r"^(the|an?)\s+(?=\S)", re.IGNORECASE)


def build_segment_exchange(phrase: str, config: HeadConfig) -> tuple[str, str]:
    """Return the question and the given answer for a phrase to segment."""
    question = config.segment_prompt or DEFAULT_SEGMENT_PROMPT
    answer = phrase
    if "the {phrase}" in question:
        phrase = _ARTICLE.sub("", phrase)
        answer = f"the {phrase}"
    return question.replace("{phrase}", phrase), answer[0].upper() + answer[1:]
