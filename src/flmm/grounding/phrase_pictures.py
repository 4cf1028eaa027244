"""Which of a conversation's pictures each phrase of an answer is about."""

from collections.abc import Sequence
from dataclasses import replace

from flmm.attention.trace import Trace, TracedPhrase
from flmm.types import PhraseSpan


def split_by_picture(
    spans: Sequence[PhraseSpan], trace: Trace
) -> dict[int, Sequence[TracedPhrase]]:
    """Return the phrases of each picture that has any, by its index.

    Args:
        spans: of the answer.
        trace: the answer's, with the attention to all pictures; a picture's phrases get it with
            the attention to that picture only.
    """
    by_picture: dict[int, list[PhraseSpan]] = {}
    for span in spans:
        by_picture.setdefault(_most_attended_picture(span, trace), []).append(span)
    traced_phrases: dict[int, Sequence[TracedPhrase]] = {}
    for index, picture_spans in by_picture.items():
        picture_trace = replace(trace, picture_attentions=(trace.picture_attentions[index],))
        traced_phrases[index] = [(span, picture_trace) for span in picture_spans]
    return traced_phrases


def _most_attended_picture(span: PhraseSpan, trace: Trace) -> int:
    """Return the index of the picture to which the phrase's tokens attend most."""
    if len(trace.picture_attentions) == 1:
        return 0
    shares = [float(picture.token_maps(span.tokens).sum()) for picture in trace.picture_attentions]
    return shares.index(max(shares))
