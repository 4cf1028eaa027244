"""Referring segmentation: each phrase in a prompt of its own, as the beginning of its answer."""

from collections.abc import Sequence

from PIL import Image

from flmm.attention.trace import Trace
from flmm.grounding.mask_predictor import TracedPhrase
from flmm.head.config import HeadConfig
from flmm.head.prompt_templates import build_segment_exchange
from flmm.lmm.base import LMMAdapter
from flmm.lmm.prompt import Prompt
from flmm.types import PhraseSpan

_SEPARATOR = ", "


def build_referring_prompts(
    adapter: LMMAdapter, config: HeadConfig, picture: Image.Image, phrases: Sequence[str]
) -> list[Prompt]:
    """Return one prompt for each phrase, with the phrase as the beginning of its answer."""
    return adapter.build_prompts(
        picture, [build_segment_exchange(phrase, config) for phrase in phrases]
    )


def join_traced_phrases(
    phrases: Sequence[str], traces: Sequence[Trace]
) -> tuple[str, list[TracedPhrase]]:
    """Return the phrases as one text, and each phrase's span in it with its trace."""
    traced_phrases = []
    start = 0
    for phrase, trace in zip(phrases, traces, strict=True):
        tokens = tuple(range(len(trace.token_ids)))
        span = PhraseSpan(phrase, start, start + len(phrase), tokens)
        traced_phrases.append((span, trace))
        start += len(phrase) + len(_SEPARATOR)
    return _SEPARATOR.join(phrases), traced_phrases
