"""Request models that the OpenAI and the plain routes share."""

from typing import Annotated, Literal

from pydantic import Field

from flmm.grounding.mask_options import MaskOptions
from flmm.grounding.mask_predictor import MaskMethod
from flmm.lmm.sampling import SamplingParams
from flmm.serve.common.strict_model import (
    PositiveCount,
    Seed,
    StrictModel,
    Temperature,
    Text,
    TokenLimit,
)

MaskFormat = Literal["rle", "polygon", "png"]
StopString = Annotated[str, Field(min_length=1, max_length=200)]
Penalty = Annotated[
    float, Field(ge=-2, le=2, description="OpenAI's, on tokens that the answer already has.")
]
METHOD_DESCRIPTION = (
    "By default the model's own, head or training-free; kmeans clusters the attention maps"
    " instead: an untrained baseline."
)


class MaskRequest(StrictModel):
    """How masks are made, and which phrases are kept."""

    refine: bool = Field(default=True, description="False leaves out the refiner: faster, coarser.")
    method: MaskMethod | None = Field(default=None, description=METHOD_DESCRIPTION)
    mask_threshold: float = Field(
        default=0.5, gt=0, lt=1, description="Pixels of a higher probability are in the mask."
    )
    min_score: float = Field(
        default=0, ge=0, le=1, description="Phrases with a lower score are left out."
    )
    min_mask_region_area: int = Field(
        default=0,
        ge=0,
        le=1_000_000_000,
        description="Smaller regions of masks are removed and smaller holes filled, in pixels of"
        " the picture.",
    )
    mask_format: MaskFormat = "rle"

    @property
    def mask_options(self) -> MaskOptions:
        """The options that masks have everywhere; K-means needs no SAM."""
        return MaskOptions(
            self.refine and self.method != "kmeans",
            self.mask_threshold,
            self.min_score,
            self.min_mask_region_area,
        )


class Grounding(MaskRequest):
    """Which phrases of the answer are grounded, and how."""

    phrases: list[Text] | None = Field(
        default=None,
        min_length=1,
        description="As they stand in the answer; those that are not in it are left out."
        " By default the model chooses.",
    )
    max_phrases: PositiveCount | None = Field(
        default=None, description="At most this many are grounded, the first ones."
    )


class SamplingOptions(StrictModel):
    """How the tokens of an answer are chosen; what nothing is said of is left to the LMM."""

    temperature: Temperature | None = None
    seed: Seed | None = Field(default=None, description="The same seed samples the same answer.")
    top_p: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None,
        description="Only the likeliest tokens are sampled whose probabilities add up to this.",
    )
    top_k: Annotated[int, Field(ge=-1, le=1_000_000)] | None = Field(
        default=None, description="Only so many of the likeliest tokens are sampled; 0 or -1: all."
    )
    min_p: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None,
        description="Only tokens are sampled of this share of the likeliest one's probability.",
    )
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = Field(
        default=None, description="transformers', on the prompt's and the answer's tokens."
    )
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None

    @property
    def max_new_tokens(self) -> int | None:
        """At most this many tokens are generated; None leaves it to the server."""
        return None

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The strings before which the answer ends."""
        return ()

    @property
    def sampling_params(self) -> SamplingParams:
        """The options as the LMM's sampler takes them."""
        return SamplingParams(
            temperature=self.temperature or 0.0,
            seed=self.seed,
            top_k=max(self.top_k or 0, 0),
            top_p=1.0 if self.top_p is None else self.top_p,
            min_p=self.min_p or 0.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
        )


class GenerationOptions(SamplingOptions):
    """Generation options of a request for an answer."""

    max_tokens: TokenLimit | None = Field(
        default=None, description="At most this many are generated; more than the limit means it."
    )
    stop: StopString | Annotated[list[StopString], Field(max_length=4)] | None = Field(
        default=None, description="The answer ends before any of these."
    )

    @property
    def max_new_tokens(self) -> int | None:
        return self.max_tokens

    @property
    def stop_strings(self) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
