"""What the LMM is asked and made to answer, so that its attention shows a phrase."""

import re

from flmm.head.model import HeadConfig

DEFAULT_SEGMENT_PROMPT = "Where is {phrase} in the picture?"
DEFAULT_CAPTION_PROMPT = "What is in the picture?"

_ARTICLE = re.compile(r"^(the|an?)\s+(?=\S)", re.IGNORECASE)


def build_segment_exchange(phrase: str, config: HeadConfig) -> tuple[str, str]:
    """What the LMM is asked for a phrase that shall be segmented, and what it is made to answer."""
    pattern = config.segment_prompt or DEFAULT_SEGMENT_PROMPT
    said = phrase
    if "the {phrase}" in pattern:
        phrase = _ARTICLE.sub("", phrase)
        said = f"the {phrase}"
    return pattern.replace("{phrase}", phrase), said[0].upper() + said[1:]
