"""What clients may ask, field by field."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from flmm.phrase_masks import MaskMethod

MaskFormat = Literal["rle", "polygon", "png"]
Text = Annotated[str, Field(max_length=1_000_000)]
Stop = Annotated[str, Field(min_length=1, max_length=200)]
Whole = Annotated[int, Field(ge=1, le=1_000_000)]
Temperature = Annotated[float, Field(ge=0, le=2, description="0 takes the likeliest token.")]
METHOD = (
    "kmeans clusters the attention maps in place of the head, to compare with; nothing trained."
)
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class Strict(BaseModel):
    """Nothing is guessed, nothing is left over."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class TextPart(Strict):
    type: Literal["text"]
    text: Text


class ImageUrl(Strict):
    url: str = Field(description="data:image/png;base64,… (PNG, JPEG, WebP or GIF).")
    detail: Literal["auto", "low", "high"] | None = Field(
        default=None, description="Taken, and not used: the model has one resolution."
    )


class ImagePart(Strict):
    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class SystemMessage(Strict):
    role: Literal["system", "developer"]
    content: Text | list[TextPart]
    name: str | None = None


class UserMessage(Strict):
    role: Literal["user"]
    content: Text | list[Part]
    name: str | None = None


class AssistantMessage(Strict):
    """What this server said before, as it came; its grounding is not used."""

    role: Literal["assistant"]
    content: Text | list[TextPart]
    name: str | None = None
    refusal: None = None
    grounding: list[JsonValue] | None = None


ChatMessage = Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]


class Grounding(Strict):
    """Which words of the answer are grounded, and how."""

    phrases: list[Text] | None = Field(
        default=None,
        min_length=1,
        description="As they stand in the answer; those that it does not say are left out."
        " Without, the model chooses.",
    )
    refine: bool = Field(default=True, description="False leaves out the refiner: faster, coarser.")
    method: MaskMethod = Field(default="head", description=METHOD)
    mask_format: MaskFormat = "rle"
    max_phrases: Whole | None = Field(default=None, description="The first so many are grounded.")


class StreamOptions(Strict):
    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class ResponseFormat(Strict):
    type: Literal["text"]


class Said(Strict):
    """What every request for an answer may set."""

    max_tokens: Whole | None = Field(default=None, description="The answer is cut there.")
    temperature: Temperature | None = None
    seed: Seed | None = Field(default=None, description="The same seed draws the same answer.")
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = Field(
        default=None, description="The answer ends before any of these."
    )

    @property
    def most_tokens(self) -> int | None:
        """Where the answer is cut."""
        return self.max_tokens

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts before which the answer ends."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class ChatRequest(Said):
    """OpenAI's, with ``grounding``. Fields that can only have one value here are taken with it."""

    model: str = Field(description="What /v1/models names.")
    messages: list[ChatMessage] = Field(min_length=1)
    grounding: Grounding | None = Field(
        default=None, description="Given, the message carries its phrases and their masks."
    )
    max_completion_tokens: Whole | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    top_p: Annotated[float, Field(ge=1, le=1)] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    logprobs: Literal[False] | None = None
    response_format: ResponseFormat | None = None
    user: str | None = None

    @property
    def most_tokens(self) -> int | None:
        return self.max_tokens or self.max_completion_tokens

    @model_validator(mode="after")
    def _one_limit(self) -> "ChatRequest":
        both = self.max_tokens, self.max_completion_tokens
        if None not in both and both[0] != both[1]:
            raise ValueError("max_tokens and max_completion_tokens differ; give one of them")
        return self


class PictureRequest(Strict):
    """What every plain route takes."""

    image: str = Field(description="data:image/png;base64,…, or the file of a multipart body.")


class MaskRequest(PictureRequest):
    """What routes take that answer with masks."""

    refine: bool = Field(default=True, description="False leaves out the refiner: faster, coarser.")
    method: MaskMethod = Field(default="head", description=METHOD)
    mask_format: MaskFormat = "rle"


class GroundRequest(MaskRequest, Said):
    """A question about a picture."""

    question: Text
    phrases: list[Text] | None = Field(default=None, min_length=1)
    max_phrases: Whole | None = None

    @property
    def grounding(self) -> Grounding:
        """The same wishes as a chat's."""
        return Grounding(
            phrases=self.phrases,
            refine=self.refine,
            method=self.method,
            mask_format=self.mask_format,
            max_phrases=self.max_phrases,
        )


class SegmentRequest(MaskRequest):
    """Phrases that are looked for in a picture."""

    phrases: list[Text] = Field(min_length=1)


class AttendRequest(PictureRequest):
    """A question about a picture, and the words whose attention is wanted."""

    question: Text
    words: list[Text] | None = Field(
        default=None,
        min_length=1,
        description="Words or phrases of the answer, as they stand there; without, all words.",
    )
    answer: Text | None = Field(
        default=None, description="Put in the model's mouth; without, it says its own."
    )
    layer: Annotated[int, Field(ge=0, le=10_000)] | None = Field(
        default=None, description="From 0; without, the mean over all layers."
    )
    head: Annotated[int, Field(ge=0, le=10_000)] | None = Field(
        default=None, description="From 0; without, the mean over all heads."
    )
    each: bool = Field(default=False, description="Adds every layer's and head's map of each word.")
    max_tokens: Whole | None = None
