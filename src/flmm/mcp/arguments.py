"""The arguments of the tools."""

from typing import Annotated, Literal

from pydantic import Field

from flmm.grounding.conversation import ChatMessage
from flmm.serve.common.strict_model import Seed, StrictModel, Temperature, Text, TokenLimit

Picture = Annotated[
    str,
    Field(
        description="A picture: the path of a file below an allowed folder, or a data URL"
        " (data:image/png;base64,…).",
        min_length=1,
    ),
]
Phrases = Annotated[list[Text], Field(min_length=1)]
MaxTokens = Annotated[TokenLimit, Field(description="The answer is cut there.")]


class ToolArguments(StrictModel):
    """Arguments of every tool."""

    min_score: float = Field(
        default=0,
        ge=0,
        le=1,
        description="Phrases with a lower score are left out; 0.5 leaves out what is not there.",
    )


class ChatTurn(StrictModel):
    """A message before the question."""

    role: Literal["user", "assistant"]
    content: Text


class ChatArguments(ToolArguments):
    """A question about pictures."""

    image: Picture | Annotated[list[Picture], Field(min_length=1)]
    question: Text
    phrases: Phrases | None = Field(
        default=None,
        description="What to locate, as it stands in the answer; by default what the answer names.",
    )
    history: list[ChatTurn] = Field(
        default_factory=list, description="The messages before the question, about these pictures."
    )
    system: Text | None = Field(default=None, description="The system prompt.")
    temperature: Temperature = 0.0
    seed: Seed | None = None
    max_tokens: MaxTokens | None = None

    @property
    def images(self) -> list[str]:
        """The pictures, of one or several."""
        return [self.image] if isinstance(self.image, str) else self.image

    @property
    def messages(self) -> list[ChatMessage]:
        """The messages before the question, as ``Grounder.chat`` takes them."""
        return [{"role": turn.role, "content": turn.content} for turn in self.history]


class SegmentArguments(ToolArguments):
    """Phrases to find in a picture."""

    image: Picture
    phrases: Phrases = Field(description='Such as ["the cat on the left", "grass"].')


class GroundArguments(ToolArguments):
    """A text about a picture."""

    image: Picture
    text: Text = Field(description='A caption or answer, such as "A cat on grass."')
    phrases: Phrases | None = Field(
        default=None,
        description="What to locate, as it stands in the text; by default what the text names.",
    )
    question: Text | None = Field(default=None, description="What the text answers.")


class LookCloserArguments(ToolArguments):
    """A question that a part of a picture answers."""

    image: Picture
    question: Text
    max_tokens: MaxTokens | None = None
