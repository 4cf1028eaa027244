"""The form that anyone can write: JSONL, one picture with one text a line.

    {"image": "cat.jpg", "text": "A cat on grass.", "question": "What is it?",
     "phrases": [{"start": 0, "end": 5, "segmentation": [[10, 10, 90, 10, 90, 80]]}]}

``image`` is relative to the file's folder; ``question`` may be left out; ``start`` and ``end``
count code points; ``segmentation`` is polygons or run lengths, as in COCO.
"""

from pathlib import Path
from typing import Annotated, NotRequired

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from flmm.data.files import read_json_line
from flmm.data.sample import CocoRegion, GroundedPhrase, GroundedText, Sample
from flmm.errors import InputError


class _Phrase(TypedDict):
    start: Annotated[int, Field(ge=0)]
    end: Annotated[int, Field(ge=1)]
    segmentation: list[list[float]] | dict[str, object]


class _Line(TypedDict):
    image: str
    text: Annotated[str, Field(min_length=1)]
    phrases: list[_Phrase]
    question: NotRequired[str]


_LINE = TypeAdapter(_Line)


def read_plain(file: Path) -> list[Sample]:
    """Every line's picture and text.

    Raises:
        InputError: the file is missing or empty, or a line is not of the form; names the line.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{str(file)!r} cannot be read as UTF-8 text ({error})") from error
    samples = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        content = read_json_line(line, number, file, _LINE)
        phrases = tuple(
            GroundedPhrase(one["start"], one["end"], (CocoRegion(one["segmentation"]),))
            for one in content["phrases"]
        )
        try:
            text = GroundedText(
                f"line {number}", "caption", content["text"], phrases, content.get("question")
            )
        except InputError as error:
            raise InputError(f"{str(file)!r}, line {number}: {error}") from error
        samples.append(Sample(file.parent / content["image"], (text,)))
    if not samples:
        raise InputError(f"{str(file)!r} has no line; write one JSON object a line")
    return samples
