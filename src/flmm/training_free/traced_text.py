"""A text about a picture, its trace, and the phrases in it: the input of training-free methods.

Letters: ``M`` layers (times views), ``N`` heads, ``h w`` image-token grid.
"""

from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from flmm.attention.trace import Trace
from flmm.lmm.prompt import PictureView, Prompt
from flmm.types import ImageGeometry, PhraseSpan


@dataclass(frozen=True, eq=False)
class TracedText:
    """A text about one picture, read by the LMM, and the phrases in it."""

    picture: Image.Image
    """The only picture of the prompt."""
    prompt: Prompt
    """With the text as the answer; without an answer, the question is the text."""
    trace: Trace
    """Of the text."""
    spans: tuple[PhraseSpan, ...]
    """Of P phrases, each with at least one token of the text."""

    @property
    def start(self) -> int:
        """Position of the text's first token in the sequence."""
        prompt = self.prompt
        return prompt.question_start if prompt.answer_offsets is None else prompt.answer_start

    @property
    def end(self) -> int:
        """Position after the text's last token."""
        return self.start + len(self.trace.token_ids)

    @property
    def view(self) -> PictureView:
        """The picture's finest view."""
        (views,) = self.prompt.picture_views
        return views[-1]

    @property
    def geometry(self) -> ImageGeometry:
        """The finest view's geometry, on whose grid all maps are."""
        return self.view.geometry

    def phrase_maps(self, span: PhraseSpan) -> Tensor:
        """Return the (M*N, h, w) attention maps of a phrase: the mean of its tokens'."""
        return self.trace.picture_attention.phrase_maps(span.tokens)
