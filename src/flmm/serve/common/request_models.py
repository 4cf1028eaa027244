"""Request models that the OpenAI and the plain routes share."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from flmm.grounding.mask_options import MaskOptions
from flmm.grounding.mask_predictor import MaskMethod

MaskFormat = Literal["rle", "polygon", "png"]
Text = Annotated[str, Field(max_length=1_000_000)]
StopString = Annotated[str, Field(min_length=1, max_length=200)]
PositiveCount = Annotated[int, Field(ge=1, le=1_000_000)]
Temperature = Annotated[float, Field(ge=0, le=2, description="0 takes the likeliest token.")]
METHOD_DESCRIPTION = (
    "By default the model's own, head or training-free; kmeans clusters the attention maps"
    " instead: an untrained baseline."
)
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class StrictModel(BaseModel):
    """A model that converts no types and refuses unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


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


class GenerationOptions(StrictModel):
    """Generation options of every request for an answer."""

    max_tokens: PositiveCount | None = Field(
        default=None, description="At most this many are generated."
    )
    temperature: Temperature | None = None
    seed: Seed | None = Field(default=None, description="The same seed samples the same answer.")
    stop: StopString | Annotated[list[StopString], Field(max_length=4)] | None = Field(
        default=None, description="The answer ends before any of these."
    )

    @property
    def max_new_tokens(self) -> int | None:
        """At most this many tokens are generated; None leaves it to the server."""
        return self.max_tokens

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The strings before which the answer ends."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
