"""What an answer of the server is generated from, and which of its phrases are grounded."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from flmm.grounding.mask_options import MaskOptions
from flmm.grounding.mask_predictor import MaskMethod
from flmm.grounding.phrase_extraction import PhraseExtractor
from flmm.lmm.prompt import Prompt
from flmm.lmm.sampling import SamplingParams


@dataclass(frozen=True)
class PhraseRequest:
    """Which phrases are grounded, and how."""

    extractor: PhraseExtractor
    mask_options: MaskOptions
    method: MaskMethod | None
    """None for the predictor's own."""
    max_phrases: int
    """At most this many are grounded, the first ones."""


@dataclass(frozen=True)
class ChatInputs:
    """What an answer is generated from."""

    prompt: Prompt
    pictures: Sequence[Image.Image]
    """The prompt's pictures."""
    max_new_tokens: int
    sampling_params: SamplingParams
    stop_strings: Sequence[str]
    phrase_request: PhraseRequest | None
    """None grounds nothing."""
    stream: bool
    """Whether each phrase is sent as soon as its mask is final."""
