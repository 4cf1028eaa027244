"""Where captions say the phrases that a data set names apart from them."""

import re
from collections.abc import Iterable


def find_phrase(
    phrase: str, caption: str, taken: Iterable[tuple[int, int]]
) -> tuple[int, int] | None:
    """Return the first (start, end) where a caption says a phrase, in code points; None if nowhere.

    Whole words, in any case and with any white space between them.

    Args:
        phrase: at least one word.
        caption: the text.
        taken: (start, end) of other phrases, which it must not overlap.
    """
    words = r"\s+".join(map(re.escape, phrase.split()))
    others = list(taken)
    for match in re.finditer(rf"(?<!\w){words}(?!\w)", caption, re.IGNORECASE):
        start, end = match.span()
        if all(end <= other_start or other_end <= start for other_start, other_end in others):
            return start, end
    return None


def unquote(caption: str) -> str:
    """Return a caption of GranD-f without the quotation marks that some have around them."""
    return caption.strip('"').strip()
