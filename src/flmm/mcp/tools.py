"""The tools that agents call, on one grounder."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from PIL import Image
from pydantic import TypeAdapter

from flmm.answers.json_types import AnswerJson, ThoughtJson
from flmm.embedded_model.domain import EMBEDDED_MODEL_NOTICE, is_sticker_scene
from flmm.errors import InputError
from flmm.mcp.arguments import (
    ChatArguments,
    GroundArguments,
    LookCloserArguments,
    SegmentArguments,
    ToolArguments,
)
from flmm.mcp.picture_files import AllowedFolders
from flmm.mcp.results import ToolResult
from flmm.serve.protection.prompt_limits import PromptLimits
from flmm.serve.protection.request_bodies import validate
from flmm.serve.protection.uploaded_pictures import PictureReader
from flmm.serve.settings import Limits, ServerSettings
from flmm.user_input import is_embedded

if TYPE_CHECKING:
    from flmm.grounding.grounder import Grounder

Arguments = TypeVar("Arguments", bound=ToolArguments)
JsonSchema = dict[str, object]
_RESULT = (
    " Returns the text, each phrase with its box [x0, y0, x1, y1] in pixels, its score (0 to 1, the"
    " probability that it is there and the mask right) and its mask as COCO run lengths, and the"
    " picture with the masks drawn on it."
)


@dataclass(frozen=True)
class ToolDescription:
    """What an agent is told of a tool."""

    name: str
    description: str
    input_schema: JsonSchema
    output_schema: JsonSchema


class Tools:
    """The tools, which read pictures within a server's limits.

    Args:
        grounder: may still be loading; calls wait for it.
        folders: pictures may be read from.
        limits: of the server.
    """

    def __init__(
        self, grounder: "Future[Grounder]", folders: AllowedFolders, limits: Limits
    ) -> None:
        self._loading = grounder
        self._folders = folders
        self._limits = limits
        self._picture_reader = PictureReader(ServerSettings(limits=limits))

    def describe(self) -> list[ToolDescription]:
        """Return what there is."""
        return [
            _describe(
                "chat",
                ChatArguments,
                AnswerJson,
                "Ask a question about one picture or several and see where the things that the"
                " answer names are." + _RESULT,
            ),
            _describe(
                "segment",
                SegmentArguments,
                AnswerJson,
                "Find what phrases refer to in a picture, such as 'the cat on the left'." + _RESULT,
            ),
            _describe(
                "ground",
                GroundArguments,
                AnswerJson,
                "Find what a given text about a picture names in it; nothing is generated."
                + _RESULT,
            ),
            _describe(
                "look_closer",
                LookCloserArguments,
                ThoughtJson,
                "Answer a question about a small part of a picture: the part is located, enlarged"
                " and looked at again. Returns both answers, the part's box, and a figure.",
            ),
        ]

    def call(self, name: str, arguments: Mapping[str, object]) -> ToolResult:
        """Run a tool; it takes as long as the model does.

        Raises:
            InputError: there is no such tool, an argument is wrong or beyond a limit, the model
                could not be loaded, or it cannot do what is asked.
            APIError: an argument is wrong or beyond a limit.
        """
        calls: dict[str, Callable[[Mapping[str, object]], ToolResult]] = {
            "chat": self._chat,
            "segment": self._segment,
            "ground": self._ground,
            "look_closer": self._look_closer,
        }
        if name not in calls:
            raise InputError(f"there is no tool {name!r}; call one of {', '.join(calls)}")
        return calls[name](arguments)

    def _chat(self, given: Mapping[str, object]) -> ToolResult:
        arguments = _parse(given, ChatArguments)
        if len(arguments.images) > self._limits.pictures:
            raise InputError(
                f"{len(arguments.images)} pictures; give {self._limits.pictures} at most"
            )
        grounder, limits = self._load()
        earlier = [turn.content for turn in arguments.history]
        limits.check_text_lengths([arguments.question, arguments.system or "", *earlier])
        limits.check_phrase_count(len(arguments.phrases or ()), "phrases")
        pictures = [self._read(image) for image in arguments.images]
        answer = grounder.chat(
            pictures,
            arguments.question,
            arguments.phrases,
            history=arguments.messages,
            system=arguments.system,
            temperature=arguments.temperature,
            seed=arguments.seed,
            max_new_tokens=limits.resolve_max_tokens(arguments.max_tokens),
            min_score=arguments.min_score,
        )
        return ToolResult.of_answer(answer, _notice(grounder, pictures))

    def _segment(self, given: Mapping[str, object]) -> ToolResult:
        arguments = _parse(given, SegmentArguments)
        grounder, limits = self._load()
        limits.check_text_lengths(arguments.phrases)
        limits.check_phrase_count(len(arguments.phrases), "phrases")
        picture = self._read(arguments.image)
        answer = grounder.segment(picture, arguments.phrases, min_score=arguments.min_score)
        return ToolResult.of_answer(answer, _notice(grounder, [picture]))

    def _ground(self, given: Mapping[str, object]) -> ToolResult:
        arguments = _parse(given, GroundArguments)
        grounder, limits = self._load()
        limits.check_text_lengths([arguments.text, arguments.question or ""])
        limits.check_phrase_count(len(arguments.phrases or ()), "phrases")
        picture = self._read(arguments.image)
        answer = grounder.ground(
            picture,
            arguments.text,
            arguments.phrases,
            question=arguments.question,
            min_score=arguments.min_score,
        )
        return ToolResult.of_answer(answer, _notice(grounder, [picture]))

    def _look_closer(self, given: Mapping[str, object]) -> ToolResult:
        arguments = _parse(given, LookCloserArguments)
        grounder, limits = self._load()
        limits.check_text_lengths([arguments.question])
        picture = self._read(arguments.image)
        thought = grounder.think(
            picture,
            arguments.question,
            max_new_tokens=limits.resolve_max_tokens(arguments.max_tokens),
            min_score=arguments.min_score,
        )
        return ToolResult.of_thought(thought, _notice(grounder, [picture]))

    def _load(self) -> "tuple[Grounder, PromptLimits]":
        grounder = self._loading.result()
        context_length = grounder.adapter.context_length or self._limits.prompt_tokens
        return grounder, PromptLimits(self._limits, context_length)

    def _read(self, image: str) -> Image.Image:
        if image[:5].lower() == "data:":
            return self._picture_reader.read_url(image, "image")
        return self._picture_reader.read_bytes(self._folders.read(image), "", "image")


def _describe(
    name: str, arguments: type[ToolArguments], result: type[object], description: str
) -> ToolDescription:
    output_schema = TypeAdapter(result).json_schema()
    return ToolDescription(name, description, arguments.model_json_schema(), output_schema)


def _parse(given: Mapping[str, object], model: type[Arguments]) -> Arguments:
    unknown = [name for name in given if name not in model.model_fields]
    if unknown:
        raise InputError(
            f"there is no argument {unknown[0]!r}; this tool takes {', '.join(model.model_fields)}"
        )
    return validate(dict(given), model)


def _notice(grounder: "Grounder", pictures: Sequence[Image.Image]) -> str | None:
    """Return what agents must know: the embedded model does not know other pictures."""
    if is_embedded(grounder.lmm) and not all(map(is_sticker_scene, pictures)):
        return EMBEDDED_MODEL_NOTICE
    return None
