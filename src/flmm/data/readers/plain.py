"""flmm's own format: JSONL, one text about a picture a line.

    {"image": "cat.jpg", "text": "A cat on grass.", "question": "What is it?",
     "phrases": [{"start": 0, "end": 5, "segmentation": [[10, 10, 90, 10, 90, 80]]}]}

``image`` is relative to the file's folder; ``question`` may be left out; ``start`` and ``end``
count code points; ``segmentation`` is polygons or run lengths, as in COCO. docs/data.md has all
the rules.
"""

from collections import defaultdict
from pathlib import Path
from typing import Annotated, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter
from typing_extensions import TypedDict

from flmm.data.readers.files import read_json_line
from flmm.data.sample import CocoRegion, GroundedPhrase, GroundedText, Sample
from flmm.data.segmentation import Segmentation
from flmm.errors import InputError

# An unknown key is a misspelt one.
_FORBID_EXTRA = ConfigDict(extra="forbid")


class _Phrase(TypedDict):
    __pydantic_config__ = _FORBID_EXTRA  # type: ignore[misc]
    start: Annotated[int, Field(ge=0)]
    end: Annotated[int, Field(ge=1)]
    segmentation: Segmentation


class _Line(TypedDict):
    __pydantic_config__ = _FORBID_EXTRA  # type: ignore[misc]
    image: str
    text: Annotated[str, Field(min_length=1)]
    phrases: list[_Phrase]
    question: NotRequired[str]


_LINE = TypeAdapter(_Line)


def read_plain(file: Path) -> list[Sample]:
    """Return every line's picture and text; lines about one picture are the texts of one sample.

    Raises:
        InputError: the file is missing or empty, or a line is not of the form; names the line.
    """
    try:
        # Editors on Windows write a byte order mark.
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, ValueError) as error:
        raise InputError(f"{str(file)!r} cannot be read as UTF-8 text ({error})") from error
    texts: dict[str, list[GroundedText]] = defaultdict(list)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        content = read_json_line(line, number, file, _LINE)
        phrases = tuple(
            GroundedPhrase(phrase["start"], phrase["end"], (CocoRegion(phrase["segmentation"]),))
            for phrase in content["phrases"]
        )
        try:
            text = GroundedText(
                f"line {number}", "caption", content["text"], phrases, content.get("question")
            )
        except InputError as error:
            raise InputError(f"{str(file)!r}, line {number}: {error}") from error
        texts[content["image"]].append(text)
    if not texts:
        raise InputError(f"{str(file)!r} has no line; write one JSON object a line")
    return [Sample(file.parent / image, tuple(of_image)) for image, of_image in texts.items()]
