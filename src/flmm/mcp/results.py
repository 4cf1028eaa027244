"""What a tool returns: text for the agent's model, JSON for its program, and a picture."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from flmm.answers.answer import Answer
    from flmm.grounding.chain_of_thought import Thought

_JPEG_QUALITY = 88


@dataclass(frozen=True)
class ToolResult:
    """The result of a tool."""

    text: str
    """For a language model."""
    content: Mapping[str, object]
    """JSON: that of ``Answer`` or ``Thought``."""
    jpeg: str
    """The overlay or figure, in base64."""

    @classmethod
    def of_answer(cls, answer: "Answer", notice: str | None = None) -> "ToolResult":
        """Return the result of an answer; ``notice`` is said with it."""
        lines = [answer.text, *_describe_phrases(answer)]
        return cls(_join(lines, notice), {**answer.to_dict()}, encode_jpeg(answer.overlay))

    @classmethod
    def of_thought(cls, thought: "Thought", notice: str | None = None) -> "ToolResult":
        """Return the result of a closer look."""
        located = "nothing" if thought.located is None else repr(thought.located.text)
        lines = [
            thought.answer.text,
            f"(Before the closer look: {thought.first.text})",
            f"(Looked closer at {located}, box {list(thought.box)}.)",
            *_describe_phrases(thought.answer),
        ]
        return cls(_join(lines, notice), {**thought.to_dict()}, encode_jpeg(thought.figure))


def encode_jpeg(picture: Image.Image) -> str:
    """Return an RGB picture as a JPEG file in base64."""
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=_JPEG_QUALITY)
    return base64.b64encode(content.getvalue()).decode("ascii")


def _describe_phrases(answer: "Answer") -> list[str]:
    """Return a line for each phrase, numbered as in the overlay."""
    if not answer.phrases:
        return ["No phrase was located."]
    lines = []
    for number, phrase in enumerate(answer.phrases, 1):
        place = f"box {list(phrase.box)}" if phrase.area else "not found"
        if answer.later_pictures:
            place += f" of picture {phrase.picture + 1}"
        lines.append(f"{number}. {phrase.text}: {place}, score {phrase.score:.2f}")
    return lines


def _join(lines: list[str], notice: str | None) -> str:
    return "\n".join(lines if notice is None else [*lines, f"Note: {notice}."])
